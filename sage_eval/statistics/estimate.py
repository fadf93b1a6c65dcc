"""A number with its uncertainty, and the one variance formula behind all of them.

Means, differences of paired means and ratios of sums are all ratios R = Σy / Σx. Taylor linearisation turns each into
residuals r = y − R·x whose totals over independent units (items, or documents) carry the whole variance; strata are
fixed, so only the spread within them counts. One formula, checked in the tests against statsmodels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

MIN_UNITS = 30
"""Fewer independent units (items, or clusters where given) get a value but neither standard error nor interval."""


@dataclass(frozen=True)
class Estimate:
    """A value in the units of its input, its standard error and confidence interval, and how they were made.

    `se`, `low` and `high` are None where no honest interval exists; `method` then begins with "too few".
    `units` counts what is independent (items, or clusters), `p` is the two-sided p-value of "the true value is zero".
    `df` (Student's t) or `counts` (effective numbers gained, lost and n of a score interval) let the same evidence be
    read at another level without its data: see `equivalence.at_level`.
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    level: float = 0.95
    units: int = 0
    p: float | None = None
    df: float | None = None
    counts: tuple[float, float, float] | None = None

    @property
    def half_width(self) -> float | None:
        """Half the interval's length, None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether the interval exists and leaves `value` out."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def within(self, margin: float) -> bool:
        """Whether the interval exists and lies strictly inside ±margin."""
        return self.low is not None and self.high is not None and -margin < self.low and self.high < margin


def column(values: npt.ArrayLike, name: str) -> Floats:
    """A one-dimensional array of finite floats, [n]; ValueError names the column otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: want a non-empty one-dimensional array, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite")
    return array


def same_length(**columns: npt.NDArray[np.generic]) -> int:
    """The common length of the columns; ValueError lists the lengths where they differ."""
    lengths = {name: array.size for name, array in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError("not paired: " + ", ".join(f"{name} has {size} items" for name, size in lengths.items()))
    return next(iter(lengths.values()))


def codes(labels: npt.ArrayLike) -> tuple[Codes, int]:
    """Integer codes 0…k−1 of arbitrary labels, [n], and k; text goes through a dict, as sorting it would be slow."""
    array = np.asarray(labels)
    if array.dtype.kind in "iub":
        distinct, inverse = np.unique(array, return_inverse=True)
        return inverse.astype(np.int64), distinct.size
    seen: dict[object, int] = {}
    inverse = np.fromiter((seen.setdefault(label, len(seen)) for label in array.tolist()), np.int64, array.size)
    return inverse, len(seen)


def linearised_variance(
    residuals: Floats, total: float, clusters: npt.ArrayLike | None, strata: npt.ArrayLike | None
) -> tuple[float, float, int]:
    """Variance of R = Σy/Σx from residuals r = y − R·x, [n], and total = Σx; degrees of freedom; number of units.

    V = Σ_h C_h/(C_h − 1) · Σ_{c∈h} (t_c − t̄_h)² / (Σx)², t_c the residual total of unit c, h the strata. Without strata
    and clusters this is s²/n; with clusters it is Miller's clustered error (arXiv:2411.00640 eq. 4) with the usual
    C/(C − 1) correction; in general the "ultimate cluster" estimator (Särndal et al. 1992 §5.6; Binder 1983). Strata of
    a single unit cannot show their spread and are pooled. ValueError where a cluster lies in two strata.
    """
    totals, units = residuals, residuals.size
    group, groups = (np.zeros(units, np.int64), 1) if strata is None else codes(strata)
    if clusters is not None:
        cluster, units = codes(clusters)
        totals = np.bincount(cluster, residuals, minlength=units).astype(np.float64)
        unit_group = np.zeros(units, np.int64)
        unit_group[cluster] = group
        if not np.array_equal(unit_group[cluster], group):
            raise ValueError("clusters: a cluster lies in more than one stratum; drop the strata or split the cluster")
        group = unit_group
    size = np.bincount(group, minlength=groups)
    if groups > 1 and (size == 1).any():
        home = groups if (size == 1).sum() > 1 else int(size.argmax())
        group = np.where(size[group] == 1, home, group)
        groups += 1
        size = np.bincount(group, minlength=groups)
    usable = size > 1
    mean = np.divide(np.bincount(group, totals, minlength=groups), size, out=np.zeros(groups), where=size > 0)
    spread = np.bincount(group, (totals - mean[group]) ** 2, minlength=groups)
    variance = float((spread[usable] * size[usable] / (size[usable] - 1)).sum()) / total**2
    return variance, float((size[usable] - 1).sum()), int(units)


def t_interval(value: float, variance: float, df: float, units: int, n: int, level: float, method: str) -> Estimate:
    """Student's t interval around `value`; only the value where the units are fewer than `MIN_UNITS`."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if units < MIN_UNITS:
        return Estimate(value, None, None, None, n, f"too few ({units} independent units)", level, units)
    se = float(np.sqrt(variance))
    reach = float(stats.t.ppf((1 + level) / 2, df)) * se
    p = 2 * float(stats.t.sf(abs(value) / se, df)) if se > 0 else (1.0 if value == 0 else 0.0)
    return Estimate(value, se, value - reach, value + reach, n, method, level, units, p, df)
