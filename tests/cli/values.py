"""What the tests of the command line share."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "store" / "stored" / "schema_1"
TINY = "tests/compare/tasks/tiny_{}.yaml"


def one_line(text: str) -> str:
    [line] = text.splitlines()
    assert line.startswith("sage-eval: error: ")
    return line
