"""How many times as fast: two arms that took turns, or did not. Pure functions."""

from typing import Any

import numpy as np

from sage_eval.statistics.estimate import MIN_UNITS
from sage_eval.statistics.resampling import bootstrap


def ratio(baseline: list[float], candidate: list[float], *, paired: bool) -> dict[str, Any]:
    """How many times as fast the candidate is: median baseline seconds / median candidate seconds.

    The interval (95 %) resamples rounds jointly. With fewer rounds than that takes it is the least and the greatest
    ratio of a round, and `method` says so; runs that were not interleaved get none, for the card drifts between them.
    """
    rounds = min(len(baseline), len(candidate)) if paired else len(candidate)
    base, cand = np.asarray(baseline), np.asarray(candidate)
    if not paired:
        value = float(np.median(base) / np.median(cand))
        return {"value": value, "low": None, "high": None, "rounds": rounds, "method": "not interleaved"}
    base, cand = base[:rounds], cand[:rounds]
    if rounds == 1:
        return {"value": float(base[0] / cand[0]), "low": None, "high": None, "rounds": 1, "method": "one round"}
    if rounds < MIN_UNITS:
        each = base / cand
        value, low, high = float(np.median(base) / np.median(cand)), float(each.min()), float(each.max())
        return {"value": value, "low": low, "high": high, "rounds": rounds, "method": f"range of {rounds} rounds"}
    found = bootstrap(lambda b, c: np.median(b) / np.median(c), base, cand)
    return {"value": found.value, "low": found.low, "high": found.high, "rounds": rounds, "method": found.method}
