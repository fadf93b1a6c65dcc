from pathlib import Path

import pytest
from rich.console import Console

from sage_eval.render.sections import Report, body, terminal
from sage_eval.report.comparison import brief_sections, sections
from sage_eval.store import load

STORED = Path(__file__).parent


def markdown(folder):
    """The report without its figures, which Markdown does not show."""
    return Report("title", sections(load(folder), {})).markdown()


def test_the_report_is_a_function_of_the_folder(old_run):
    assert markdown(old_run) == (STORED / "schema_1.md").read_text()


def test_the_report_of_a_calibrated_run_begins_with_its_verdict(calibrated_run):
    assert markdown(calibrated_run) == (STORED / "calibrated.md").read_text()


def test_the_brief_report_has_both_arms_their_difference_and_coverage(old_run):
    text = "\n".join(body(part.parts) for part in brief_sections(load(old_run)))
    assert "| task | metric | plain ± SE | sage_attn ± SE | difference | 95 % interval | flips −/+ | n |" in text
    assert "tiny_needle | acc ↑ | 91.67 ± 3.60 |" in text
    assert "| candidate | sage_attn | prefill | sage_attn | 1,000 | 100.0 % |" in text
    assert "baseline at chance (25 %)" in text
    assert "Repeat" not in text


def test_an_uninformative_cell_stands_in_brackets(old_run):
    [cell] = [c for row in load(old_run).comparison.pairs[0].tasks for c in row.cells if not c.informative]
    assert f"({100 * cell.baseline:.0f} → {100 * cell.candidate:.0f})" in markdown(old_run)


@pytest.mark.parametrize("shown", ["91.67 ± 3.60", "−0 / +0", "1,000", "25 %"])
def test_a_terminal_shows_the_same_numbers(old_run, capsys, shown):
    terminal(brief_sections(load(old_run)), Console(width=160))
    assert shown in capsys.readouterr().out
