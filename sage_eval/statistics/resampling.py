"""The bootstrap, for statistics that have no formula, such as the ratio of two medians, or F1."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from .estimate import MIN_UNITS, Estimate, Floats, column, same_length

LEAST_EFFECTIVE = 15.0
"""Fewer items, after what neighbours have in common is taken off, get no interval."""


def autocorrelation(x: Floats) -> float:
    """What neighbours in a series, [n], have in common: 0 to just under 1.

    The moment estimate is about (1 + 4r)/n too low in a short series (Kendall, Biometrika 41:403, 1954): put back here.
    """
    off = x - x.mean()
    square = float((off**2).sum())
    if x.size < 6 or square <= 0:
        return 0.0
    plain = float((off[1:] * off[:-1]).sum()) / square
    return min(max((x.size * plain + 1) / (x.size - 4), 0.0), 0.99)


def effective_items(x: Floats) -> float:
    """How many independent items a series of as much autocorrelation is worth for its mean: n(1 − r)/(1 + r)."""
    r = autocorrelation(x)
    return x.size * (1 - r) / (1 + r)


def block_length(x: Floats) -> int:
    """The stretch that keeps what neighbours have in common: Politis and White (Econometric Reviews 23:53, 2004).

    (1.5 n (2r/(1 − r²))²)^⅓ for a series whose autocorrelation falls as r, r², …; at most a fifth of the series.
    """
    r = autocorrelation(x)
    return int(min(max(1, math.ceil((1.5 * x.size * (2 * r / (1 - r * r)) ** 2) ** (1 / 3))), max(1, x.size // 5)))


RESAMPLES = 200
"""Draws of `resampled`: enough for a standard error, which 200 know to 5 %."""


def resampled(
    statistic: Callable[[list[Any]], Any], items: Sequence[Any], *, seed: int, seconds: float = math.inf
) -> list[float]:
    """`statistic(items)` → a number, on `RESAMPLES` draws of as many items with replacement, or on those of `seconds`.

    The draws depend on `seed` and the number of items alone: what two arms have of the same draw is a pair.
    """
    rng = np.random.default_rng(seed)
    values: list[float] = []
    begun = time.monotonic()
    while len(values) < RESAMPLES and time.monotonic() - begun < seconds:
        values.append(float(statistic([items[i] for i in rng.integers(len(items), size=len(items))])))
    return values


def bootstrap(value: float, draws: npt.ArrayLike, n: int, *, level: float = 0.95) -> Estimate:
    """The estimate of a statistic of n items, from its values on resampled items (Efron 1979), [draws].

    The spread of the draws, times √(n/(n − 1)), is the standard error; the interval is Student's t, with the degrees of
    freedom of the smaller of items and draws. Draws of a difference are the differences of paired draws. ValueError
    where a draw is NaN.
    """
    found = column(draws, "draws")
    if n < MIN_UNITS:
        return Estimate(value, None, None, None, n, f"too few ({n} items)", level, n)
    se = float(found.std(ddof=1)) * math.sqrt(n / (n - 1))
    df = min(n, found.size) - 1
    reach = float(stats.t.ppf((1 + level) / 2, df)) * se
    p = 2 * float(stats.t.sf(abs(value) / se, df)) if se > 0 else float(value == 0)
    return Estimate(value, se, value - reach, value + reach, n, "bootstrap of items", level, n, p, df)


def block_bootstrap(
    statistic: Callable[..., Any],
    *columns: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """`statistic(*columns)` → a number, for items in order of time, each of which may resemble those before it.

    Whole stretches are resampled, the end joined to the beginning: the circular block bootstrap of Politis and Romano
    (1992). Their length follows from the autocorrelation of the column (of two: of their difference). Few stretches
    make percentiles narrow: their distances from the value are widened by Student's t over the normal quantile, and by
    what stretches of that length miss of the series' own variance. Under `MIN_UNITS` items, or `LEAST_EFFECTIVE`
    independent ones, there is no interval. `tests/statistics/test_coverage.py` says how often it holds. `se` is the
    spread of the resamples, not widened; `units` counts the stretches. ValueError where the statistic is NaN.
    """
    arrays = [column(values, f"column {i}") for i, values in enumerate(columns)]
    n = same_length(**{f"column {i}": array for i, array in enumerate(arrays)})
    value = float(statistic(*arrays))
    series = arrays[0] - arrays[1] if len(arrays) == 2 else arrays[0]
    worth = effective_items(series)
    if n < MIN_UNITS or worth < LEAST_EFFECTIVE:
        return Estimate(value, None, None, None, n, f"too few ({n} items worth {worth:.0f})", level, effective=worth)
    block = block_length(series)
    starts = np.random.default_rng(seed).integers(n, size=(resamples, -(-n // block)))
    rows = ((starts[:, :, None] + np.arange(block)) % n).reshape(resamples, -1)[:, :n]
    found = np.array([statistic(*(array[index] for array in arrays)) for index in rows], dtype=float)
    if np.isnan(found).any():
        raise ValueError("bootstrap: the statistic is NaN on some resamples")
    tail, r = (1 + level) / 2, autocorrelation(series)
    wider = stats.t.ppf(tail, starts.shape[1] - 1) / stats.norm.ppf(tail) * math.sqrt(_missed(r, block))
    low, high = (float(value + wider * (x - value)) for x in np.quantile(found, (1 - tail, tail)))
    name = f"bootstrap in blocks of {block}"
    return Estimate(value, float(found.std(ddof=1)), low, high, n, name, level, starts.shape[1], effective=worth)


def _missed(r: float, block: int) -> float:
    """The variance of a mean over that of stretches of `block`, for a series whose autocorrelation falls as r, r², …"""
    whole = (1 + r) / (1 - r)
    return whole / (whole - 2 * r * (1 - r**block) / (block * (1 - r) ** 2))
