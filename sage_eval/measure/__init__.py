"""What lm-eval does not measure. `base` has what instruments share; each instrument is a file or a small folder.

An instrument is known to the commands and to the reports by its line here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_eval.measure.base import Measurement

BENCH = {
    "serving": "sage_eval.measure.serving.instrument:Serving",
    "rate": "sage_eval.measure.rate.instrument:Rate",
    "scoring": "sage_eval.measure.scoring.instrument:Scoring",
    "kernels": "sage_eval.measure.kernels.instrument:Kernels",
}
PROBE = {
    "logits": "sage_eval.measure.logits.instrument:LogitsProbe",
    "drift": "sage_eval.measure.drift.instrument:DriftProbe",
    "determinism": "sage_eval.measure.determinism.instrument:Determinism",
}
"""Kind → module and class, by the command that it belongs to, in the order of a report."""
FORMER = {"memory": "sage_eval.measure.serving.instrument:Memory"}
"""Kinds of records that no command makes any more."""


def instrument(kind: str) -> "Measurement[Any, Any]":
    """The instrument of a kind."""
    module, _, name = {**PROBE, **BENCH, **FORMER}[kind].partition(":")
    made: Measurement[Any, Any] = getattr(import_module(module), name)()
    return made
