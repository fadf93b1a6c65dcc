"""The page as a document: well-formed, self-contained, complete, escaped, and the same every time."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from sage_eval.report import pages
from sage_eval.report.comparison import report
from sage_eval.store import load
from sage_eval.store.fidelity import Histogram
from tests.report.full_run import HOSTILE

VOID = {"meta", "link", "br", "img", "hr", "input"}
ALWAYS = ["scores", "retrieval", "coverage", "reading", "manifest", "repeat"]


class Document(HTMLParser):
    """Elements with their attributes, the text of each kind of element, and tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.mismatched, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def document(page):
    return Document(page)


def test_every_tag_is_closed(document):
    assert (document.mismatched, document.open) == ([], [])


def test_no_id_twice_and_every_reference_has_its_target(document, page):
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    referred |= {name for svg in document.all("svg") for name in svg["aria-labelledby"].split()}
    assert len(referred) > 10
    assert referred <= set(ids)


def test_the_page_loads_nothing(document, page):
    loading = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}
    targets = [value for _, attributes in document.elements for name, value in attributes.items() if name in loading]
    assert [target for target in targets if not target.startswith(("#", "data:,"))] == []
    assert re.findall(r"@import|url\((?!#)", page) == []
    assert {tag for tag, _ in document.elements} & {"script", "iframe", "object", "embed", "img", "base"} == set()
    [policy] = [meta["content"] for meta in document.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_a_full_run_has_every_section_verdict_first(document):
    assert [section["id"] for section in document.all("section")] == [
        "verdict", "differences", "scores", "subjects", "retrieval", "fidelity", "dose", "worst",
        "coverage", "reading", "manifest", "repeat",
    ]  # fmt: skip


def test_the_contents_list_the_sections(document):
    links = [link["href"] for link in document.all("a")]
    assert links == [f"#{section['id']}" for section in document.all("section")]


def test_a_bare_run_has_no_empty_section(old_run):
    page = Document(report(load(old_run)).page().text)
    sections = [section["id"] for section in page.all("section")]
    assert [name for name in sections if name not in ("worst",)] == ALWAYS
    assert page.mismatched == []


def test_a_run_without_retrieval_has_no_heatmap(full_run):
    comparison = full_run.comparison
    pairs = [
        pair.model_copy(update={"tasks": [row for row in pair.tasks if not row.cells]}) for pair in comparison.pairs
    ]
    run = full_run.judged(comparison.model_copy(update={"pairs": pairs, "verdict": None}), None)
    sections = [section["id"] for section in Document(report(run).page().text).all("section")]
    assert "retrieval" not in sections
    assert "verdict" in sections  # the gate's outcome


def test_a_fidelity_table_needs_no_figure(full_run):
    bare = {"by_position": [], "kl_by_position": [], "kld_histogram": Histogram(edges=[1e-9, 1.0], counts=[0], below=1)}
    tasks = [entry.model_copy(update=bare) for entry in full_run.fidelity.tasks]
    rendered = report(
        full_run.judged(full_run.comparison, full_run.fidelity.model_copy(update={"tasks": tasks}))
    ).page()
    assert "mean KLD, nats" in rendered.text
    assert not any(name.startswith("kld") for name in rendered.figures)


def test_what_a_prompt_says_stays_text(document, page):
    assert "<script" not in page
    assert "onerror=alert" not in "".join(str(attributes) for _, attributes in document.elements)
    assert any(HOSTILE in text for tag, text in document.text if tag == "code")


def test_a_task_name_stays_text_in_figures_too(document):
    labels = [text for tag, text in document.text if tag == "text"]
    assert any("$law & <i>$" in text for text in labels), labels


def test_tables_figures_and_headings_have_names(document, page):
    assert len(document.all("table")) == page.count("<caption>") > 10
    assert len(document.all("h1")) == 1
    assert len(document.all("h2")) == len(document.all("section"))
    for svg in document.all("svg"):
        assert svg["role"] == "img"
    titles = [text for tag, text in document.text if tag == "desc"]
    assert len(titles) == len(document.all("svg")) == 7
    assert all(header["scope"] in ("col", "row") for header in document.all("th"))


def test_a_caption_that_is_that_of_the_figure_before_stands_once(full_run):
    from dataclasses import replace

    [part] = [part for part in report(full_run).sections if part.name == "retrieval"]
    twice = replace(part, figures=[*part.figures, replace(part.figures[0], name="again")])
    made = replace(report(full_run, figures={}), sections=[twice]).page().text
    assert made.count("<figure>") == 2
    assert made.count("<figcaption>") == 1


def test_terms_are_explained_before_the_first_table(page):
    assert page.index("<em>Blunt</em>: ") < page.index("<table")


@pytest.mark.parametrize(
    ("name", "title"), [("/data/a_b/my_model", "my_model"), ("org/my-model", "org/my-model"), ("x*y", "x\\*y")]
)
def test_a_title_is_the_models_name_and_escaped(full_run, name, title):
    from dataclasses import replace

    manifest = full_run.manifest.model_copy(update={"model": full_run.manifest.model | {"name": name}})
    run = replace(full_run, manifest=manifest)
    vars(run).update(comparison=full_run.comparison, fidelity=None)
    first = report(run, figures={}).markdown().splitlines()[0]
    assert first.startswith(f"# {title}: ")


def test_the_words_are_those_of_the_other_reports(page, full_run):
    markdown = (full_run.folder / "report.md").read_text()
    assert "Verdict: equivalent (blunt) in 2 of 3 tasks: tiny_mmlu," in markdown
    assert "<strong>Verdict: equivalent (blunt) in 2 of 3 tasks: tiny_mmlu," in page
    assert "<em>equivalent</em>: the 90 % interval lies within the margin" in page
    assert full_run.manifest.command in page


def test_the_fidelity_table_has_llama_cpps_lines(document, full_run):
    rows = [text for tag, text in document.text if tag == "th"]
    for line in ("mean KLD, nats", "99.9 % KLD, nats", "maximum KLD, nats", "RMS Δp, %", "same top token, %"):
        assert line in rows
    [control] = [entry for entry in full_run.fidelity.tasks if entry.arm == "control"]
    kld = control.statistics.kld
    assert f"{kld.value:.3g} ± {kld.se:.3g}" in [text for tag, text in document.text if tag == "td"]


def test_every_figure_is_a_file_too(full_run, document):
    files = sorted((full_run.folder / "figures").iterdir())
    assert [file.name for file in files] == [
        "differences.svg", "dose-response.svg", "kld-context-tiny-text.svg", "kld-tiny-text.svg",
        "position-tiny-text.svg",
        "retrieval-tiny-needle-single.svg", "subjects.svg",
    ]  # fmt: skip
    for file in files:
        root = ElementTree.fromstring(file.read_bytes())
        assert "prefers-color-scheme:dark" in "".join(root.itertext())
        assert root.get("viewBox")


def test_a_figure_that_has_no_data_any_more_goes(full_run, tmp_path):
    import shutil

    folder = shutil.copytree(full_run.folder, tmp_path / "run")
    (folder / "fidelity.json").unlink()
    pages.write(report(load(folder)), folder)
    assert not (folder / "figures" / "kld-tiny-text.svg").exists()
    assert (folder / "figures" / "subjects.svg").exists()


def test_the_same_bytes_in_another_process_with_other_settings(full_run, page, tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: path\naxes.facecolor: red\n")
    code = "import sys; from sage_eval.report.comparison import report; from sage_eval.store import load; "
    code += "sys.stdout.buffer.write(report(load(sys.argv[1])).page().text.encode())"
    settings = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(full_run.folder)], capture_output=True, check=True, env=os.environ | settings
    )
    assert done.stdout.decode() == page


def test_the_page_of_a_stored_run_weighs_little(calibrated_run):
    rendered = report(load(calibrated_run)).page()
    assert len(rendered.text.encode()) < 200_000
