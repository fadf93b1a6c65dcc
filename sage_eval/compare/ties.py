"""Which changed answers are near-ties: choices whose lead was no larger than what rounding alone moves it by."""

from collections.abc import Sequence

import numpy as np

from sage_eval.compare.pairing import Pair
from sage_eval.compare.ranking import chosen, lead, ranked
from sage_eval.statistics.changes import NEAR_TIE, Changes, answer_changes

PERCENTILE = 99
OTHERWISE = 0.01
"""Share of items that may be scored otherwise than their log-probabilities say, which are kept rounded."""
RAW = "acc"
"""The metric that ranks log-probabilities themselves: rounding moves those."""


def near_tie(pairs: Sequence[Pair]) -> float:
    """The lead below which an answer is a near-tie, from floor arms: `pairs` are (baseline's, floor arm's) samples.

    The 99th percentile of the lead's change; `NEAR_TIE` where no floor arm ran, or the lead never changed there.
    """
    moved = [abs(lead(a, RAW) - lead(b, RAW)) for a, b in pairs if len(ranked(a, RAW)) > 1 and len(ranked(b, RAW)) > 1]
    return float(np.percentile(moved, PERCENTILE)) or NEAR_TIE if moved else NEAR_TIE


def changes(
    items: Sequence[Pair], base: Sequence[float], cand: Sequence[float], limit: float, metric: str = RAW
) -> Changes | None:
    """Flips and changed answers of choices, near-ties apart; `base` and `cand` are 0 or 1 an item.

    None where `metric` ranks something else than is known here: a right choice would not be what it counts as right.
    """
    before, after = ([chosen(sample, metric) for sample in side] for side in zip(*items, strict=True))
    sides = ((items[i][0].target, answer[i], score[i]) for answer, score in ((before, base), (after, cand))
             for i in range(len(items)))  # fmt: skip
    known = [(target == answer) == bool(score) for target, answer, score in sides if isinstance(target, int)]
    if known.count(False) > OTHERWISE * len(known):
        return None
    return answer_changes(before, after, base, cand, [lead(sample, metric) for sample, _ in items], limit)
