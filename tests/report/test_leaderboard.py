"""The leaderboard: what is committed is what the folders give, and which run a row shows."""

import shutil
from pathlib import Path

import pytest

from sage_eval.errors import DataError
from sage_eval.report.leaderboard import BEGIN, END, build, entries, label, report
from sage_eval.store.files import read_json, write_json

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def made():
    return build(RESULTS)


@pytest.mark.parametrize("name", ["README.md", "index.html"])
def test_what_is_committed_is_what_the_folders_give(made, name):
    assert (RESULTS / name).read_text() == made[name], "run `sage-eval leaderboard results`"


def test_the_page_runs_its_own_script_and_loads_nothing(made):
    page = made["index.html"]
    assert "script-src 'sha256-" in page
    assert "default-src 'none'" in page
    assert " src=" not in page


def test_links_of_the_page_lead_somewhere(made):
    import re

    links = set(re.findall(r'href="([^"#:]+/[^"#:]+)"', made["index.html"]))
    assert "serving-h100/report.html" in links
    assert all((RESULTS / link).exists() for link in links)


def test_an_arm_is_written_as_the_command_line_does():
    assert label("fa3", {}) == "fa3"
    own = label("sage_attn", {"balance": "made/here/b.safetensors"}, {"pretrained": "models/m-balanced"})
    assert own == "sage_attn:variant=int8-fp16,balance=b.safetensors,pretrained=m-balanced"
    assert label("sage_attn+fa3", {"min_tokens": 4096}) == "sage_attn+fa3:variant=int8-fp16,min_tokens=4096"


@pytest.fixture
def folders(full_run, tmp_path):
    """The same run twice, of which the second had no calibration arm."""
    for name in ("calibrated", "bare"):
        shutil.copytree(full_run.folder, tmp_path / name, ignore=shutil.ignore_patterns("arms", "figures", "report.*"))
        shutil.copytree(full_run.folder / "arms", tmp_path / name / "arms")
    path = tmp_path / "bare" / "comparison.json"
    comparison = read_json(path)
    comparison["verdict"]["missing"] = ["floor", "control"]
    for task in comparison["verdict"]["tasks"]:
        task["verdict"] = "inconclusive"
    write_json(path, comparison)
    return sorted(tmp_path.iterdir())


def test_a_row_shows_the_run_that_is_calibrated_and_names_both(folders):
    [row] = entries(folders)
    assert row.runs == ["calibrated", "bare"]
    assert "inconclusive" not in row.cells["verdict"]
    assert row.loss is not None
    assert row.speed is None


def test_the_plotted_loss_is_a_divergence_where_one_was_judged():
    rows = {row.arm: row for row in entries([RESULTS / "qwen2.5-coder-0.5b-h200"])}
    as_it_is = rows["sage_attn+fa3:variant=int8-fp16"]
    assert "-0.11 nats" in as_it_is.cells["loss on text"], "its perplexity gained"
    assert as_it_is.loss is not None
    assert as_it_is.loss.value > 10


def test_the_cells_have_interval_floor_flips_and_verdict(folders):
    [row] = entries(folders)
    assert "]; floor " in row.cells["loss on text"]
    assert "; flips −" in row.cells["accuracy"]
    assert " at 4,096; in all " in row.cells["found at length"]
    assert "(" in row.cells["KL divergence (floor)"]


def test_another_model_is_another_row(folders):
    path = folders[0] / "manifest.json"
    manifest = read_json(path)
    write_json(path, manifest | {"model": manifest["model"] | {"sha256": "f" * 64}})
    assert len(entries(folders)) == 2


def test_a_table_goes_between_the_marks_and_nothing_else_changes(folders):
    results = folders[0].parent
    (results / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    text = build(results)["README.md"]
    assert text.startswith(f"before\n{BEGIN}\n\n| # | model |")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text


def test_a_run_without_a_floor_and_with_few_items_has_a_row():
    [row] = entries([RESULTS / "demo-cpu"])
    assert row.cells["loss on text"].endswith(" nats (too few); inconclusive")
    assert "(" not in row.cells["KL divergence (floor)"]
    assert row.cells["accuracy"] == "–"  # a divergence is none


@pytest.mark.parametrize(
    ("name", "shown"), [("demo", False), ("bare-again", False), ("tmp-1", False), ("demo-cpu", True)]
)
def test_what_the_demo_and_reproduce_leave_is_not_published(folders, name, shown):
    results = folders[0].parent
    shutil.copytree(folders[0], results / name)
    assert (name in build(results)["README.md"]) is shown


def test_a_readme_without_marks_is_refused(folders):
    results = folders[0].parent
    (results / "README.md").write_text("mine\n")
    with pytest.raises(DataError, match="lacks the lines"):
        build(results)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no run folder"):
        build(tmp_path)


def test_the_page_has_the_commands_of_its_runs(folders, full_run):
    markdown = report(entries(folders), folders[0].parent, figures=[]).markdown()
    assert full_run.manifest.command in markdown
