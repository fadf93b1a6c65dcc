"""A number with its uncertainty, and the one variance formula behind all of them.

Means, differences of paired means and ratios of sums are all ratios R = Σy / Σx. Taylor linearisation turns each into
residuals r = y − R·x whose totals over independent units (items, or documents) carry the whole variance; strata are
fixed, so only the spread within them counts. One formula, checked in the tests against statsmodels. What is estimated
is the value on new documents of this kind, not on this fixed set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .studentised import Quantiles, mirrored, quantiles, reach, tail

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

MIN_UNITS = 30
"""Fewer independent units of one size (items, or clusters) get a value but neither standard error nor interval."""
COCHRAN = 25.0
"""So many times the squared skewness of the units is their smallest safe number (Cochran, Sampling Techniques (1977)
§2.15)."""


@dataclass(frozen=True)
class Estimate:
    """A value in the units of its input, its standard error and confidence interval, and how they were made.

    `se`, `low` and `high` are None where no honest interval exists; `method` then begins with "too few".
    `units` counts what is independent (items, or clusters), `p` is the two-sided p-value of "the true value is zero".
    `df` (Student's t) or `counts` (effective numbers gained, lost and n of a score interval) let the same evidence be
    read at another level without its data: see `equivalence.at_level`; `resampled` are the bootstrap-t's quantiles.
    `effective` counts equal units worth as much as those there are, `largest` is the largest one's share, `skewness`
    that of what each adds to the value. `looks` are the shares of the items at which one looked, where that was more
    than once: see `sequential`.
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
    effective: float | None = None
    largest: float | None = None
    resampled: Quantiles | None = None
    looks: tuple[float, ...] | None = None
    skewness: float | None = None

    @property
    def skewed(self) -> bool:
        """Whether a few units carry so much of the value that its t interval may be too short."""
        return self.df is not None and self.skewness is not None and self.units < COCHRAN * self.skewness**2


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


@dataclass(frozen=True)
class Linearised:
    """Variance and degrees of freedom of a ratio; its units, what they are worth, the largest one's share, the skew."""

    variance: float
    df: float
    units: int
    effective: float
    largest: float
    skewness: float
    resampled: Quantiles | None = None


def linearised(
    residuals: Floats,
    x: Floats,
    clusters: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    *,
    resample: bool = False,
) -> Linearised:
    """The variance of R = Σy/Σx from residuals r = y − R·x and x, both [n].

    V = Σ_c u_c² / (1 − h_c) / (Σx)², where u_c is the residual total of unit c less its share h_c of its stratum's
    total, and h_c its share of the stratum's x: CR2 (Bell & McCaffrey, Survey Methodology 28:169, 2002), unbiased
    where the residuals' variance grows with x. Units of one size make it C/(C − 1) times the sum of squares, and
    single items s²/n. The degrees of freedom are Bell and McCaffrey's, (Σλ)²/Σλ², C − 1 for units of one size.
    `effective` counts equal units worth as much (Kish 1965, (Σx_c)²/Σx_c²). Strata of a single unit cannot show their
    spread and are pooled. With `resample` the bootstrap-t's quantiles too, where there are no strata. ValueError where
    a cluster lies in two.
    """
    totals, sizes, units = residuals, x, residuals.size
    group, groups = (np.zeros(units, np.int64), 1) if strata is None else codes(strata)
    if clusters is not None:
        cluster, units = codes(clusters)
        totals, sizes = (np.bincount(cluster, values, minlength=units).astype(np.float64) for values in (residuals, x))
        unit_group = np.zeros(units, np.int64)
        unit_group[cluster] = group
        if not np.array_equal(unit_group[cluster], group):
            raise ValueError("clusters: a cluster lies in more than one stratum; drop the strata or split the cluster")
        group = unit_group
    count = np.bincount(group, minlength=groups)
    if groups > 1 and (count == 1).any():
        home = groups if (count == 1).sum() > 1 else int(count.argmax())
        group = np.where(count[group] == 1, home, group)
        groups += 1
    whole, residue = (np.bincount(group, values, minlength=groups) for values in (sizes, totals))
    share = np.divide(sizes, whole[group], out=np.zeros(units), where=whole[group] > 0)
    rest = np.maximum(1 - share, 1e-12)
    shifts = totals - share * residue[group]
    spread = float((shifts**2).mean())
    skewness = float((shifts**3).mean()) / spread**1.5 if spread > 0 else 0.0
    own = shifts**2 / rest
    # A unit that is all of its stratum shows no spread.
    variance = float(own[share < 1 - 1e-12].sum()) / float(sizes.sum()) ** 2
    cross = np.where(share < 1 - 1e-12, share**2 / rest, 0.0)
    sums, squares, leverage = (np.bincount(group, v, minlength=groups) for v in (cross, cross**2, share**2))
    df = float(whole.sum()) ** 2 / float((whole**2 * (leverage + sums**2 - squares)).sum())
    effective = float(sizes.sum()) ** 2 / float((sizes**2).sum())
    found = Linearised(variance, df, int(units), effective, float(sizes.max() / sizes.sum()), skewness)
    if not resample or strata is not None or effective < MIN_UNITS:
        return found
    return replace(found, resampled=quantiles(totals, sizes, float(np.sqrt(variance))))


def t_interval(value: float, found: Linearised, n: int, level: float, method: str) -> Estimate:
    """The wider of Student's t and the bootstrap-t around `value`; only the value under `MIN_UNITS` effective units."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    estimate = Estimate(
        value, None, None, None, n, method, level, found.units, effective=found.effective, largest=found.largest
    )
    if found.effective < MIN_UNITS - 1e-9:
        worth = "" if round(found.effective) == found.units else f" worth {found.effective:.1f}"
        return replace(estimate, method=f"too few ({found.units} independent units{worth})")
    se = float(np.sqrt(found.variance))
    down, up = reach(level, found.df, found.resampled)
    p = float(value == 0)
    if se > 0:
        p = min(1.0, 2 * tail(abs(value) / se, found.df, found.resampled if value > 0 else mirrored(found.resampled)))
    return replace(
        estimate, se=se, low=value - down * se, high=value + up * se, p=p, df=found.df, resampled=found.resampled,
        skewness=found.skewness,
    )  # fmt: skip
