"""The bootstrap, for statistics that have no formula: medians of ratios, areas, anything a function computes.

>>> bootstrap(np.median, np.arange(100.0)).value
49.5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from .estimate import MIN_UNITS, Codes, Estimate, codes, column, same_length

BCA_LIMIT = 2_000
"""BCa evaluates the statistic once more for every unit; above so many the percentile interval is as good."""

BLOCKS = 10
"""Stretches into which `block_bootstrap` cuts a series: longer ones keep more of what neighbours have in common."""

BATCH_CELLS = 1 << 20
"""Resampled indices held at once."""


def bootstrap(
    statistic: Callable[..., Any],
    *columns: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """`statistic(*columns)` → a number, resampling items (or whole clusters) jointly over the columns, each [n].

    BCa intervals by scipy (Efron 1987), percentile ones above `BCA_LIMIT` units; reproducible for a seed. A statistic
    that does not move under resampling gets a zero-width interval. ValueError where it returns NaN.
    """
    arrays = [column(values, f"column {i}") for i, values in enumerate(columns)]
    n = same_length(**{f"column {i}": array for i, array in enumerate(arrays)})
    value = float(statistic(*arrays))
    members = _members(n, clusters)
    units = len(members)
    if units < MIN_UNITS:
        return Estimate(value, None, None, None, n, f"too few ({units} independent units)", level, units)

    def resampled(index: Codes) -> float:
        rows = index if clusters is None else np.concatenate([members[i] for i in index])
        return float(statistic(*(array[rows] for array in arrays)))

    method = "BCa" if units <= BCA_LIMIT else "percentile"
    sample = np.arange(units)
    draw: dict[str, Any] = {"vectorized": False, "confidence_level": level, "batch": max(1, BATCH_CELLS // units)}
    rng = np.random.default_rng(seed)
    result = stats.bootstrap((sample,), resampled, rng=rng, n_resamples=resamples, method="percentile", **draw)
    if np.isnan(result.bootstrap_distribution).any():
        raise ValueError("bootstrap: the statistic is NaN on some resamples")
    se, low, high = float(result.standard_error), *map(float, result.confidence_interval)
    if method == "BCa" and se > 0:
        draw |= {"n_resamples": 0, "bootstrap_result": result}
        corrected = stats.bootstrap((sample,), resampled, method="BCa", **draw).confidence_interval
        if np.isfinite(corrected).all():
            low, high = map(float, corrected)
        else:
            method = "percentile"
    name = f"bootstrap {method}" + ("" if clusters is None else ", clustered")
    return Estimate(value, se, low, high, n, name, level, units)


def block_bootstrap(
    statistic: Callable[..., Any],
    *columns: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """`bootstrap` for items in order of time, each of which may resemble those before it (runs of a busy machine do).

    Whole stretches of n // 10 items are resampled, the end joined to the beginning: the circular block
    bootstrap of Politis and Romano (1992). So few stretches make percentiles narrow: their distances from the value are
    widened by Student's t (nine degrees of freedom) over the normal quantile. `tests/statistics/test_coverage.py` says
    how often the interval holds, and how seldom one that resamples single items does. `se` is the spread of the
    resamples, not widened; `units` counts the stretches. ValueError where the statistic is NaN.
    """
    arrays = [column(values, f"column {i}") for i, values in enumerate(columns)]
    n = same_length(**{f"column {i}": array for i, array in enumerate(arrays)})
    value, block = float(statistic(*arrays)), n // BLOCKS
    if n < MIN_UNITS:
        return Estimate(value, None, None, None, n, f"too few ({n} items)", level)
    starts = np.random.default_rng(seed).integers(n, size=(resamples, -(-n // block)))
    rows = ((starts[:, :, None] + np.arange(block)) % n).reshape(resamples, -1)[:, :n]
    found = np.array([statistic(*(array[index] for array in arrays)) for index in rows], dtype=float)
    if np.isnan(found).any():
        raise ValueError("bootstrap: the statistic is NaN on some resamples")
    tail = (1 + level) / 2
    wider = stats.t.ppf(tail, BLOCKS - 1) / stats.norm.ppf(tail)
    low, high = (float(value + wider * (x - value)) for x in np.quantile(found, (1 - tail, tail)))
    name = f"bootstrap in blocks of {block}"
    return Estimate(value, float(found.std(ddof=1)), low, high, n, name, level, starts.shape[1])


def _members(n: int, clusters: npt.ArrayLike | None) -> list[Codes]:
    if clusters is None:
        return list(np.arange(n)[:, None])
    cluster, units = codes(clusters)
    if cluster.size != n:
        raise ValueError(f"clusters: want one label for each of the {n} items, got {cluster.size}")
    order = np.argsort(cluster, kind="stable")
    return np.split(order, np.cumsum(np.bincount(cluster, minlength=units))[:-1])
