"""Paired comparisons as `evaluate` modules, for any two prediction lists; they load by path, without a network.

>>> import evaluate
>>> from sage_eval.comparisons import path
>>> comparison = evaluate.load(path("paired_accuracy"), module_type="comparison")
"""

from pathlib import Path

NAMES = ("log_perplexity_ratio", "paired_accuracy", "paired_equivalence")


def path(name: str) -> str:
    """The folder that `evaluate.load(…, module_type="comparison")` takes; ValueError lists the names."""
    if name not in NAMES:
        raise ValueError(f"no comparison {name!r}; choose from {', '.join(NAMES)}")
    return str(Path(__file__).parent / name)
