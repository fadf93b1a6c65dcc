"""How many times as fast: two arms that took turns, or did not.

>>> ratio([2.0, 3.0, 4.0, 3.0, 3.0], [1.0] * 5, paired=True)
Ratio(value=3.0, low=2.0, high=4.0, rounds=5, interval='range')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .resampling import block_bootstrap

Interval = Literal["confidence", "range", "few rounds", "one round", "not interleaved"]
LEAST_RANGE = 5
"""Fewer rounds have a ratio and nothing else: the least and the greatest of three or four say nothing of the next."""


@dataclass(frozen=True)
class Ratio:
    """A quotient of medians over `rounds`, and `low` to `high`, which are None where `interval` has no length.

    `interval` is the 95 % "confidence" interval, or the "range" of the rounds' own ratios where they are too few, or
    resemble their neighbours too much, for one.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int
    interval: Interval


def ratio(baseline: Sequence[float], candidate: Sequence[float], *, paired: bool) -> Ratio:
    """How many times as fast the candidate is: median baseline seconds / median candidate seconds.

    The confidence interval resamples rounds jointly, in stretches: a machine that is busy stays so for some rounds.
    Runs that were not interleaved get no interval, as the GPU drifts between them. ValueError without a round.
    """
    rounds = min(len(baseline), len(candidate)) if paired else len(candidate)
    if not rounds or not baseline:
        raise ValueError("ratio: no round")
    base, cand = (np.asarray(seconds[:rounds] if paired else seconds) for seconds in (baseline, candidate))
    value = float(np.median(base) / np.median(cand))
    if not paired:
        return Ratio(value, None, None, rounds, "not interleaved")
    if rounds == 1:
        return Ratio(value, None, None, rounds, "one round")
    if rounds < LEAST_RANGE:
        return Ratio(value, None, None, rounds, "few rounds")
    estimate = block_bootstrap(lambda b, c: np.median(b) - np.median(c), np.log(base), np.log(cand))
    if estimate.low is None:
        each = base / cand
        return Ratio(value, float(each.min()), float(each.max()), rounds, "range")
    low, high = np.exp(np.array([estimate.low, estimate.high], dtype=float)).tolist()
    return Ratio(value, low, high, rounds, "confidence")
