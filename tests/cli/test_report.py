"""`sage-eval report`, and what a stored run folder gives by the command line."""

import json

import pytest

from tests.cli.values import one_line


def test_report_renders_again_without_an_engine(call, calibrated):
    before = json.loads((calibrated / "comparison.json").read_text())
    for name in ("report.md", "comparison.json"):
        (calibrated / name).unlink()
    code, out, err = call("report", calibrated)
    assert (code, err) == (0, "")
    assert out.startswith("**Verdict: worse in 1 of 3 tasks: tiny_perplexity.**")
    assert "near-ties" in (calibrated / "report.md").read_text()
    after = json.loads((calibrated / "comparison.json").read_text())
    assert scores(after) == scores(before)
    words = {task["task"]: task["verdict"] for task in after["verdict"]["tasks"]}
    assert words == {task["task"]: task["verdict"] for task in before["verdict"]["tasks"]} | {
        "tiny_needle": "equivalent (blunt)"  # a word that is younger than the stored run
    }


def scores(comparison):
    """What no rule of statistics changes: each arm's own scores."""
    return {
        (pair["candidate"], row["task"], row["metric"], side): pytest.approx(row[side]["value"])
        for pair in comparison["pairs"]
        for row in pair["tasks"]
        for side in ("baseline", "candidate", "difference")
    }


def test_report_writes_the_page_and_its_figures(call, calibrated, tmp_path):
    elsewhere = tmp_path / "pages" / "page.html"
    code, out, err = call("report", calibrated, "--html", elsewhere)
    assert (code, err) == (0, "")
    assert out.startswith("**Verdict: worse in 1 of 3 tasks: tiny_perplexity.**")
    assert elsewhere.read_bytes() == (calibrated / "report.html").read_bytes()
    assert {path.name for path in (calibrated / "figures").iterdir()} == {
        "differences.svg", "retrieval-tiny-needle-single.svg",
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_read_and_said(call, calibrated, tmp_path, monkeypatch):
    from sage_eval.report import pages

    # Root may write anywhere, so that permissions cannot be the test.
    monkeypatch.setattr(pages, "writable", lambda _folder: False)
    before = {path: path.stat().st_mtime_ns for path in sorted(calibrated.rglob("*"))}
    code, out, err = call("report", calibrated, "--html", tmp_path / "page.html")
    assert code == 0
    assert out.startswith("**Verdict: worse in 1 of 3 tasks: tiny_perplexity.**")
    assert "is read-only, so nothing was written there" in err
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert {path: path.stat().st_mtime_ns for path in sorted(calibrated.rglob("*"))} == before


def test_json_on_stdout_is_the_comparison(call, run_folder):
    code, out, _ = call("report", run_folder, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((run_folder / "comparison.json").read_text())


def test_validate_says_what_does_not_follow_and_fails(call, run_folder):
    code, out, err = call("validate", run_folder, run_folder / "arms")
    assert (code, err) == (1, "")
    assert f"{run_folder}: report.md does not follow" in out
    assert f"{run_folder / 'arms'}: it holds neither manifest.json nor a record" in out


def test_validate_passes_what_report_rendered(call, run_folder):
    call("report", run_folder)
    assert call("validate", run_folder) == (0, f"{run_folder}: valid\n", "")


def test_leaderboard_writes_table_and_page(call, calibrated):
    code, out, err = call("leaderboard", calibrated.parent)
    assert (code, err) == (0, "")
    assert out.split() == [str(calibrated.parent / "README.md"), str(calibrated.parent / "index.html")]
    assert "[calibrated](calibrated/report.md)" in (calibrated.parent / "README.md").read_text()


def test_a_damaged_run_folder_is_one_line(call, run_folder):
    (run_folder / "arms/baseline/samples.jsonl.zst").write_bytes(b"")
    code, out, err = call("report", run_folder)
    assert (code, out) == (2, "")
    assert "samples.jsonl.zst is cut short or damaged" in one_line(err)


@pytest.mark.parametrize("name", ["comparison", "serving.json", "samples"])
def test_schema_prints_that_of_one_file(call, name):
    code, out, err = call("schema", name)
    assert (code, err) == (0, "")
    assert json.loads(out)["type"] == "object"


def test_a_stored_record_is_valid_by_the_published_schema(call, calibrated):
    jsonschema = pytest.importorskip("jsonschema")
    _, out, _ = call("schema", "comparison")
    jsonschema.validate(json.loads((calibrated / "comparison.json").read_text()), json.loads(out))


def test_schema_of_an_unknown_file_is_refused(call):
    code, out, err = call("schema", "comparisons")
    assert (code, out) == (2, "")
    assert "did you mean comparison" in one_line(err)
