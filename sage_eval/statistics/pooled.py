"""One answer for all tasks: do the two arms differ, whatever each task says by itself?

Under the hypothesis that the arms are alike, either could have given either answer: swapping both arms' answers in
whole documents changes nothing but the sign of their differences. A paired permutation test, exact whatever the
distribution; Kübler et al. (arXiv:2602.10144) pool McNemar's test over tasks in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .estimate import Floats, codes

PERMUTATIONS = 9_999
MOST_UNITS = 500
"""Above this many units that differ, the sum of random signs is drawn as the normal number that it is by then."""


@dataclass(frozen=True)
class Pooled:
    """`z` is the mean of the tasks' losses in their own standard deviations, times √tasks; above 0 is a loss.

    `p` is two-sided, by `permutations` of whole units; `by_task` each task's own z.
    """

    z: float
    p: float
    permutations: int
    by_task: dict[str, float]


def unit_totals(losses: Floats, clusters: npt.ArrayLike | None = None) -> Floats:
    """Sums of `losses`, [n], over whole units, [C]."""
    if clusters is None:
        return losses
    unit, count = codes(clusters)
    return np.bincount(unit, losses, minlength=count).astype(np.float64)


def pooled(losses: Mapping[str, Floats], seed: int = 0) -> Pooled | None:
    """Pool tasks by their units' losses, [C] each, positive where the candidate lost; every task counts as much.

    Tasks without any difference say nothing and are left out; None where no task has one.
    """
    rng = np.random.default_rng(seed)
    by_task, drawn = {}, np.zeros(PERMUTATIONS)
    for task, totals in losses.items():
        scale = float(np.sqrt((totals**2).sum()))
        if scale == 0:
            continue
        by_task[task] = float(totals.sum()) / scale
        moved = totals[totals != 0]
        if moved.size > MOST_UNITS:
            drawn += rng.standard_normal(PERMUTATIONS)
        else:
            signs = rng.integers(0, 2, (PERMUTATIONS, moved.size), dtype=np.int8)
            drawn += (2.0 * (signs @ moved) - moved.sum()) / scale
    if not by_task:
        return None
    root = len(by_task) ** 0.5
    z = sum(by_task.values()) / root
    extreme = int((np.abs(drawn / root) >= abs(z) - 1e-9).sum())
    return Pooled(z, (extreme + 1) / (PERMUTATIONS + 1), PERMUTATIONS, by_task)
