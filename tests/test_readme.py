"""What the README shows is what was measured, and what it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_is_that_of_the_published_run():
    report = (ROOT / "results" / "reference-model-cpu" / "report.md").read_text().splitlines()
    rows = [line for line in README.splitlines() if line.startswith("| sage_")]
    assert len(rows) == 10
    assert [row for row in rows if row not in report] == []


def test_the_kernel_figures_are_those_of_the_published_benchmark():
    table = (ROOT / "results" / "kernels-h200" / "README.md").read_text()
    speeds = {row.split("|")[1].strip(): row.split("|") for row in table.splitlines() if row.startswith("| d128")}
    for case, said in (("d128 4x4096", "495"), ("d128 1x32768", "650")):
        assert speeds[case][2].strip() == said
        assert re.search(rf"\b{said}\b", README)


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_of_make_are_targets():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)  ", README)) <= set(targets)
    assert {"demo", "test", "test-all", "lint"} <= set(targets)
