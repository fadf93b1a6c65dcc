"""How many times as fast: two arms that took turns, or did not. Pure functions."""

from typing import Any

import numpy as np

from sage_eval.statistics.estimate import MIN_UNITS
from sage_eval.statistics.resampling import block_bootstrap


def ratio(baseline: list[float], candidate: list[float], *, paired: bool) -> dict[str, Any]:
    """How many times as fast the candidate is: median baseline seconds / median candidate seconds.

    The interval (95 %) resamples rounds jointly, in stretches: a machine that is busy stays so for some rounds. With
    fewer rounds than that takes it is the least and the greatest ratio of a round, and `method` says so; runs that were
    not interleaved get none, for the card drifts between them.
    """
    rounds = min(len(baseline), len(candidate)) if paired else len(candidate)
    base, cand = np.asarray(baseline), np.asarray(candidate)
    if not paired:
        value = float(np.median(base) / np.median(cand))
        return {"value": value, "low": None, "high": None, "rounds": rounds, "method": "not interleaved"}
    base, cand = base[:rounds], cand[:rounds]
    if rounds == 1:
        return {"value": float(base[0] / cand[0]), "low": None, "high": None, "rounds": 1, "method": "one round"}
    value = float(np.median(base) / np.median(cand))
    if rounds < MIN_UNITS:
        each, method = base / cand, f"range of {rounds} rounds"
        return {"value": value, "low": float(each.min()), "high": float(each.max()), "rounds": rounds, "method": method}
    found = block_bootstrap(lambda b, c: np.median(b) - np.median(c), np.log(base), np.log(cand))
    low, high = np.exp(np.array([found.low, found.high], dtype=float)).tolist()
    return {"value": value, "low": low, "high": high, "rounds": rounds, "method": found.method}
