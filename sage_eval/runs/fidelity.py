"""`fidelity.json`: how far each arm's next-token distributions are from the baseline's, by the top-k lists."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.runs.calibration import Role
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.fidelity import Fidelity


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Histogram(_Record):
    """Token positions by KLD in nats: `counts[i]` from `edges[i]` to `edges[i + 1]`, `below` under the first edge.

    `above` counts those over the last edge.
    """

    edges: list[float]
    counts: list[int]
    below: int
    above: int = 0


class PositionBin(_Record):
    """NLL difference (arm − baseline, nats a token) of the tokens with `low` ≤ tokens of context < `high`."""

    low: int
    high: int
    n: int
    difference: Estimate


class TaskFidelity(_Record):
    """One task's token positions in one arm against the baseline; `k` ids a position were returned."""

    task: str
    arm: str
    role: Role
    k: int
    statistics: Fidelity
    kld_histogram: Histogram
    by_position: list[PositionBin]


class FidelityRecord(_Record):
    """`fidelity.json`."""

    schema_version: Literal[1]
    baseline: str
    tasks: list[TaskFidelity]
