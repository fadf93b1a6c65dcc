"""The published kernel measurements belong to the kernels as they are."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_measurements_are_of_these_kernels() -> None:
    sources = sorted((ROOT / "sage_eval" / "attention" / "kernels").glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    published = (ROOT / "results" / "kernels-h200" / "README.md").read_text()
    assert digest in published, "the kernels changed since they were measured: run tests/gpu and the benchmark again"
