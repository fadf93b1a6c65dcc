"""The published kernel measurements belong to the attention package as it is."""

from pathlib import Path

from sage_eval.store.source import source_hash

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_measurements_are_of_these_kernels() -> None:
    published = (ROOT / "results" / "kernels-h200" / "README.md").read_text()
    assert source_hash() in published, (
        "sage_eval/attention changed since results/kernels-h200 was measured. On a GPU: run `pytest tests/gpu`, then "
        "`sage-eval bench kernels --out results/kernels-h200/kernels.json` with a new file, and put its table and the "
        f"hash it prints into results/kernels-h200/README.md (this tree's is {source_hash()})"
    )
