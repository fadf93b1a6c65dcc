"""What the README shows is what was measured, and what it names exists."""

import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GENERATED = {
    ROOT / "docs" / name
    for name in ("performance.md", "log.md", "may-i-switch.md", "reference/commands.md", "reference/records.md")
}
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - GENERATED)]


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_table_is_that_of_the_published_run():
    report = (ROOT / "results" / "reference-model-h100" / "report.md").read_text().splitlines()
    published = [cells(line) for line in report if line.startswith("| sage_")]
    lines = README.splitlines()
    start = next(place for place, line in enumerate(lines) if cells(line)[:2] == ["task", "verdict"])
    rows = list(map(cells, itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])))
    assert len(rows) == 4
    for name, verdict, baseline, candidate, difference, margin, flips, n in rows:
        task = re.split(r"[, ]", name)[0]
        found = [row for row in published if row[0] == task]
        assert any(row[2:5] == [baseline, candidate, difference] and row[-2:] == [flips, n] for row in found), task
        assert any(row[1] == verdict and row[5].startswith(margin) for row in found), task


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        target = (page.parent / link).resolve()
        assert target.exists() or target in GENERATED, link


def test_commands_of_make_are_targets():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)\b", README)) <= targets
