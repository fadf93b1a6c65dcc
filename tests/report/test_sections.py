"""What probes and benchmarks measured, within the report of a comparison and by itself."""

import json
import re
import shutil
from pathlib import Path

import pytest

from sage_eval.cli import main
from sage_eval.report import measurements as sections
from sage_eval.report.measurements import found, read
from sage_eval.store.files import write_json
from tests.report.measured import FIGURES, STORED, TOKEN, put
from tests.report.test_html import Document

NAMES = [name.removesuffix(".json") for name in STORED]


@pytest.fixture(scope="module")
def measured_page(measured_run):
    return (measured_run.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def document(measured_page):
    return Document(measured_page)


@pytest.fixture
def bench(tmp_path):
    """A folder without a comparison."""
    (tmp_path / "bench").mkdir()
    return put(tmp_path / "bench", "drift.json", "serving.json")


def test_the_sections_come_after_the_dose_and_in_the_contents(document):
    sections = [section["id"] for section in document.all("section")]
    place = sections.index("dose") + 1
    *measured, after = sections[place : place + len(NAMES) + 1]
    assert (sorted(measured), after) == (sorted(NAMES), "worst")
    assert [link["href"] for link in document.all("a")] == [f"#{name}" for name in sections]
    assert (document.mismatched, document.open) == ([], [])


def test_no_id_twice_with_the_sections_figures(document, measured_page):
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', measured_page)) <= set(ids)
    assert all(header["scope"] in ("col", "row") for header in document.all("th"))


def test_without_its_sections_the_page_is_that_of_the_comparison_alone(measured_page, page):
    names = "|".join(NAMES)
    bare = re.sub(rf'<section id="(?:{names})">.*?</section>\n', "", measured_page, flags=re.DOTALL)
    assert re.sub(rf'<li><a href="#(?:{names})">.*\n', "", bare) == page


def test_the_markdown_has_the_comparisons_sections_and_the_others_before_coverage(measured_run, full_run):
    whole, alone = (
        re.findall("^## (.*)$", (run.folder / "report.md").read_text(), re.MULTILINE)
        for run in (measured_run, full_run)
    )
    place = alone.index("Coverage")
    assert whole == [*alone[:place], *(part.title for part in found(measured_run.folder)), *alone[place:]]


def test_the_sections_figures_are_files_beside_the_comparisons(measured_run, full_run):
    files, alone = ({path.name for path in (run.folder / "figures").iterdir()} for run in (measured_run, full_run))
    assert files == alone | FIGURES


def test_a_token_stays_text(document, measured_page):
    assert {"script", "img", "iframe", "u"} & {tag for tag, _ in document.elements} == set()
    assert [link["href"] for link in document.all("a") if not link["href"].startswith("#")] == []
    shown = repr(TOKEN).replace("`", "'")
    assert shown in [text for tag, text in document.text if tag == "code"]


def test_a_token_breaks_no_row_of_markdown(measured_run):
    lines = (measured_run.folder / "report.md").read_text().splitlines()
    [row] = [line for line in lines if "alert(1)" in line and "127.0.0.1" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 1 + 7
    assert row.count("`") == 2 * len(re.findall(r"`[^`]*`", row)) > 0


def test_a_folder_without_a_comparison_is_shown_and_written(bench, capsys, tmp_path):
    assert main(["report", str(bench), "--html", str(tmp_path / "page.html")]) == 0
    out, err = capsys.readouterr()
    assert out == (bench / "report.md").read_text()
    assert re.findall("^##? (.*)$", out, re.MULTILINE) == ["bench", "Activation drift", "Serving: reference_model"]
    assert err == ""
    written = (bench / "report.html").read_text()
    assert written == (tmp_path / "page.html").read_text()
    document = Document(written)
    assert [section["id"] for section in document.all("section")] == ["drift", "serving"]
    assert (document.mismatched, document.open) == ([], [])
    drawn = {path.name for path in (bench / "figures").iterdir()}
    assert drawn == {name for name in FIGURES if name.startswith(("drift", "serving"))}


def test_its_json_are_the_records_by_file_name(bench, capsys, tmp_path):
    assert main(["report", str(bench), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert list(out) == ["drift.json", "serving.json"]
    again = tmp_path / "again"
    again.mkdir()
    for name, value in out.items():
        write_json(again / name, value)
    assert read(again) == read(bench)


def test_nothing_is_written_where_nothing_can_be(bench, capsys, monkeypatch, tmp_path):
    from sage_eval.report import pages

    monkeypatch.setattr(pages, "writable", lambda _folder: False)
    assert main(["report", str(bench), "--html", str(tmp_path / "page.html")]) == 0
    out, err = capsys.readouterr()
    assert "## Activation drift" in out
    assert "is read-only, so nothing was written there" in err
    assert sorted(path.name for path in bench.iterdir()) == ["drift.json", "serving.json"]
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_damaged_record_is_one_line(bench, capsys):
    (bench / "drift.json").write_text("{")
    assert main(["report", str(bench)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "drift.json is cut short" in err
    assert len(err.splitlines()) == 1


def test_the_command_says_where_a_comparisons_sections_are(old_run, capsys, tmp_path):
    folder = put(Path(shutil.copytree(old_run, tmp_path / "run")), "determinism.json")
    assert main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "## Determinism" not in out
    assert "determinism.json: shown in" in err
    assert "## Determinism" in (folder / "report.md").read_text()


def test_the_page_asked_for_is_that_of_the_folder_and_its_sections_are_drawn_once(old_run, tmp_path, monkeypatch):
    folder = put(Path(shutil.copytree(old_run, tmp_path / "run")), "drift.json")
    drawn = []

    def counted(*arguments):
        drawn.append(arguments)
        return real(*arguments)

    real = sections.sections
    monkeypatch.setattr(sections, "sections", counted)
    assert main(["report", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    assert len(drawn) == 1
    page = (tmp_path / "page.html").read_text()
    assert page == (folder / "report.html").read_text()
    assert '<section id="drift">' in page


def test_a_damaged_record_in_a_run_folder_is_named_before_anything_is_written(old_run, capsys, tmp_path):
    folder = put(Path(shutil.copytree(old_run, tmp_path / "run")), "determinism.json")
    (folder / "determinism.json").write_text('{"schema_version": 1}')
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["report", str(folder)]) == 2
    assert "determinism.json is damaged" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
