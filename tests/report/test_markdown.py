from pathlib import Path

from sage_eval.report.markdown import render
from sage_eval.report.terminal import show
from sage_eval.runs import load


def test_the_report_is_a_function_of_the_folder(old_run):
    assert render(load(old_run)) == (Path(__file__).parent / "schema_1.md").read_text()


def test_the_report_of_a_calibrated_run_begins_with_its_verdict(calibrated_run):
    assert render(load(calibrated_run)) == (Path(__file__).parent / "calibrated.md").read_text()


def test_the_table_has_both_arms_their_difference_and_coverage(old_run):
    text = render(load(old_run), details=False)
    assert "| task | metric | plain ± SE | sage_attn ± SE | difference | 95 % interval | flips −/+ | n |" in text
    assert "tiny_needle | acc ↑ | 91.67 ± 3.60 |" in text
    assert "| candidate | sage_attn | prefill | sage_attn | 1,000 | 100.0 % |" in text
    assert "baseline at chance (25 %)" in text
    assert "Repeat" not in text


def test_an_uninformative_cell_stands_in_brackets(old_run):
    run = load(old_run)
    [cell] = [c for row in run.comparison.pairs[0].tasks for c in row.cells if not c.informative]
    text = render(run)
    assert text.count("(") > 0
    assert f"({100 * cell.baseline:.0f} → {100 * cell.candidate:.0f})" in text


def test_a_terminal_shows_the_same_numbers(old_run, capsys):
    from rich.console import Console

    run = load(old_run)
    show(run, Console(width=160))
    shown = capsys.readouterr().out
    for cell in ("91.67 ± 3.60", "−0 / +0", "1,000", "25 %"):
        assert cell in shown
