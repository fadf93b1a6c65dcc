"""Which changed answers are near-ties: choices whose lead was no larger than what rounding alone moves it by."""

from collections.abc import Sequence

import numpy as np

from sage_eval.runs.pairing import Pair
from sage_eval.runs.records import Sample
from sage_eval.statistics.changes import NEAR_TIE, Changes, answer_changes

PERCENTILE = 99


def lead(sample: Sample) -> float:
    """Best minus second-best log-probability of a choice, in nats."""
    best, second, *_ = sorted(sample.logprobs, reverse=True)
    return best - second


def near_tie(pairs: Sequence[Pair]) -> float:
    """The lead below which an answer is a near-tie, from floor arms: `pairs` are (baseline's, floor arm's) samples.

    The 99th percentile of the lead's change; `NEAR_TIE` where no floor arm ran, or the lead never changed there.
    """
    moved = [abs(lead(a) - lead(b)) for a, b in pairs if len(a.logprobs) > 1 and len(b.logprobs) > 1]
    return float(np.percentile(moved, PERCENTILE)) or NEAR_TIE if moved else NEAR_TIE


def changes(items: Sequence[Pair], base: Sequence[float], cand: Sequence[float], limit: float) -> Changes:
    """Flips and changed answers of choices, near-ties apart; `base` and `cand` are 0 or 1 an item."""
    before, after = (
        [sample.logprobs.index(max(sample.logprobs)) for sample in side] for side in zip(*items, strict=True)
    )
    return answer_changes(before, after, base, cand, [lead(sample) for sample, _ in items], limit)
