"""What the README shows is what was measured, and what it names exists."""

import re
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_is_that_of_the_published_run():
    report = (ROOT / "results" / "reference-model-cpu" / "report.md").read_text().splitlines()
    rows = [line for line in README.splitlines() if line.startswith("| sage_")]
    assert len(rows) == 10
    assert [row for row in rows if row not in report] == []


def test_the_kernel_figures_are_those_of_the_published_benchmark():
    table = (ROOT / "results" / "kernels-h200" / "README.md").read_text().splitlines()
    header = next([cell.strip() for cell in row.split("|")] for row in table if row.startswith("| case"))
    rows = [dict(zip(header, map(str.strip, row.split("|")), strict=True)) for row in table if row.startswith("| d128")]
    speeds = {row["case"]: row for row in rows}
    for case, kernel in product(("d128 4x4096", "d128 1x32768"), ("int8-fp16", "fa3-paged")):
        assert re.search(rf"\b{speeds[case][kernel]}\b", README), (case, kernel)
    ratio = int(speeds["d128 1x4096+16384"]["int8-fp16"]) / int(speeds["d128 1x4096+16384"]["triton-extend"])
    assert f"{ratio:.1f} times for 4,096 new tokens" in README


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_of_make_are_targets():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)  ", README)) <= set(targets)
    assert {"demo", "test", "test-all", "lint"} <= set(targets)
