"""What the README shows is what was measured, and what it names exists."""

import itertools
import re
from pathlib import Path

import pytest

from sage_eval.store.folder import load

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GENERATED = {
    ROOT / "docs" / name
    for name in ("performance.md", "log.md", "may-i-switch.md", "reference/commands.md", "reference/records.md")
}
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - GENERATED)]


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize(
    ("column", "name", "arm"),
    [
        (2, "qwen2.5-coder-0.5b-h200", "sage_attn+fa3"),
        (3, "qwen2.5-coder-0.5b-h200", "sage_attn+fa3-balance=balance.safetensors"),
        (4, "smollm2-135m-h200", "sage_attn+fa3"),
    ],
)
def test_table_is_that_of_the_published_runs(column, name, arm):
    lines = README.splitlines()
    start = next(place for place, line in enumerate(lines) if cells(line)[:2] == ["", "margin"])
    rows = list(map(cells, itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])))
    run = load(ROOT / "results" / name)
    verdicts = {v.task: v.verdict.removesuffix(" (blunt)") for v in run.comparison.verdict.tasks if v.candidate == arm}
    [pair] = [pair for pair in run.comparison.pairs if pair.candidate == arm]
    found = {row.task: row.difference for row in reversed(pair.tasks)}
    ours, floor = (next(t.statistics for t in run.fidelity.tasks if t.arm == each) for each in (arm, "exact"))
    shown = [row[column].replace("**", "") for row in rows]
    for text, task, scale, digits, unit in [
        (shown[0], "sage_wikitext_tokens", 1, 4, ""),
        (shown[1], "sage_mmlu", 100, 2, " pp"),
        (shown[2], "sage_retrieval", 100, 1, " pp"),
    ]:
        value, se = scale * found[task].value, scale * found[task].se
        said = f"{value:+.{digits}f} ± {se:.{digits}f}{unit}" if se else f"0 of {found[task].n} differ"
        assert text in (f"{said}, {verdicts[task]}", "at chance, says nothing"), task
        assert not text.startswith("at chance") or verdicts[task] == "not established"
    kl = f"{ours.kld.value:.2g} ({floor.kld.value:.1g})"
    assert shown[3] == f"{kl}, {verdicts['sage_wikitext KLD']}"
    assert shown[4] == f"{100 * ours.same_top.value:.1f} % ({100 * floor.same_top.value:.1f} %)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        target = (page.parent / link).resolve()
        assert target.exists() or target in GENERATED, link


def test_commands_of_make_are_targets():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)\b", README)) <= targets
