"""What an error is measured in: Student's t, or resampled documents where they are skewed; the wider of both.

Losses that a few documents carry make a t interval too short on the side of the loss, and a false "equivalent" likely.
The bootstrap-t (Efron 1982; Hall, Annals of Statistics 16:927, 1988) sees the skew: its distribution of (R* − R)/se*
over resampled documents stands in for Student's. Its quantiles at `GRID` are kept with the estimate, so that the same
evidence can be read at another level.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Quantiles = tuple[float, ...]

RESAMPLES = 3_999
MOST_UNITS = 500
"""Above this many units the central limit theorem is left to do its work."""
LIMIT = 100.0
"""A resample without any spread is this many standard errors off."""
_UPPER = (0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999)
GRID = (*(round(1 - p, 4) for p in reversed(_UPPER)), 0.5, *_UPPER)


@lru_cache(maxsize=8)
def _counts(units: int) -> Floats:
    """How often each unit is drawn, [RESAMPLES, units]; the same for every estimate of as many units."""
    rng = np.random.default_rng(units)
    return rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)


def quantiles(totals: Floats, sizes: Floats, se: float) -> Quantiles | None:
    """Quantiles at `GRID` of (R* − R)/se for residual totals and denominators of units, each [C], in units of `se`.

    None where there is no spread, or there are more than `MOST_UNITS` units.
    """
    units = totals.size
    if units > MOST_UNITS or se <= 0:
        return None
    drawn = _counts(units) @ np.stack([totals, sizes, totals**2, totals * sizes, sizes**2], axis=1)
    y, x, yy, xy, xx = drawn.T
    x = np.maximum(x, sizes.sum() * 1e-9)
    shift = y / x
    spread = np.sqrt(np.maximum(yy - 2 * shift * xy + shift**2 * xx, 0.0)) / x
    plain = float(np.sqrt((totals**2).sum()) / sizes.sum())
    limit = np.abs(shift) / LIMIT
    t = np.divide(shift, np.maximum(spread, limit), out=np.zeros(RESAMPLES), where=(spread > 0) | (limit > 0))
    return tuple(float(f"{value:.5g}") for value in np.quantile(t, GRID) * plain / se)


def reach(level: float, df: float, resampled: Quantiles | None) -> tuple[float, float]:
    """Standard errors from the value down to the lower, and up to the higher end of the interval at `level`."""
    from scipy import stats

    tail = (1 + level) / 2
    t = float(stats.t.ppf(tail, df))
    if resampled is None:
        return t, t
    # Past the grid its last point is stretched as Student's t is.
    stretch = max(1.0, t / float(stats.t.ppf(GRID[-1], df)))
    down, up = (float(np.interp(p, GRID, resampled)) * stretch for p in (tail, 1 - tail))
    return max(t, down), max(t, -up)


def tail(statistic: float, df: float, resampled: Quantiles | None) -> float:
    """How likely a value as many standard errors above the truth, or more, is; the larger of both distributions."""
    from scipy import stats

    plain = float(stats.t.sf(statistic, df))
    if resampled is None:
        return plain
    if statistic >= resampled[-1] > 0:
        return max(plain, float(stats.t.sf(statistic * float(stats.t.ppf(GRID[-1], df)) / resampled[-1], df)))
    return max(plain, 1 - float(np.interp(statistic, resampled, GRID)))


def mirrored(resampled: Quantiles | None) -> Quantiles | None:
    """The same distribution of the negative estimate."""
    return None if resampled is None else tuple(-value for value in reversed(resampled))
