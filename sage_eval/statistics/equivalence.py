"""From "no difference found" to "no difference beyond the margin", and what it would take to tell.

    >>> from sage_eval.statistics.paired import paired_difference
    >>> equivalence(paired_difference([1, 0] * 1000, [1, 0] * 1000), margin=0.005).equivalent
    True

Everything here reads an `Estimate`, never its data: tests at another level are cheap and need no engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from .estimate import MIN_UNITS, Estimate
from .proportions import tango_interval, tango_statistic
from .sequential import nominal, overall
from .studentised import mirrored, reach, tail

POWER = 0.80


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: `equivalent` where p < alpha, that is where the 1 − 2·alpha interval lies inside ±margin."""

    margin: float
    alpha: float
    p: float | None
    interval: Estimate

    @property
    def equivalent(self) -> bool:
        """Whether a difference as large as the margin is rejected on both sides; False where there is no interval."""
        return self.p is not None and self.p < self.alpha


def at_level(estimate: Estimate, level: float) -> Estimate:
    """The same evidence with another level's interval; ValueError where it was made otherwise than by t or Tango."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if estimate.se is None:
        return replace(estimate, level=level)
    used = level if estimate.looks is None else 1 - 2 * nominal((1 - level) / 2, estimate.looks)
    if estimate.counts is not None:
        low, high = tango_interval(*estimate.counts, used)
        return replace(estimate, low=float(low), high=float(high), level=level)
    down, up = (errors * estimate.se for errors in reach(used, _df(estimate), estimate.resampled))
    return replace(estimate, low=estimate.value - down, high=estimate.value + up, level=level)


def p_above(estimate: Estimate, edge: float) -> float | None:
    """One-sided p-value of "the true value is `edge` or less"; None where the estimate has no interval."""
    if estimate.se is None:
        return None
    if estimate.counts is not None:
        p = float(stats.norm.sf(tango_statistic(*estimate.counts, edge)))
    elif estimate.se == 0:
        p = float(estimate.value <= edge)
    else:
        p = tail((estimate.value - edge) / estimate.se, _df(estimate), estimate.resampled)
    return p if estimate.looks is None else overall(p, estimate.looks)


def at_look(estimate: Estimate, shares: tuple[float, ...]) -> Estimate:
    """The estimate with the interval and the p-value that hold over all looks so far; as it is after a single one.

    `shares` of the items at each look, this one's last: see `sequential`.
    """
    if estimate.se is None or shares == (1.0,) or (estimate.df is None and estimate.counts is None):
        return estimate
    looked = at_level(replace(estimate, looks=shares, method=f"{estimate.method}, repeated"), estimate.level)
    return replace(looked, p=None if estimate.p is None else min(1.0, 2 * overall(estimate.p / 2, shares)))


def p_below(estimate: Estimate, edge: float) -> float | None:
    """One-sided p-value of "the true value is `edge` or more"; None where the estimate has no interval."""
    return p_above(mirrored_estimate(estimate), -edge)


def mirrored_estimate(estimate: Estimate) -> Estimate:
    """The estimate of the negative value."""
    low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
    counts = estimate.counts and (estimate.counts[1], estimate.counts[0], estimate.counts[2])
    resampled = mirrored(estimate.resampled)
    return replace(estimate, value=-estimate.value, low=low, high=high, counts=counts, resampled=resampled)


def equivalence(estimate: Estimate, margin: float, alpha: float = 0.05) -> Equivalence:
    """TOST of |difference| < margin, in the estimate's units (Schuirmann 1987; for proportions Liu et al. 2002).

    p is the larger of the two one-sided p-values; None where the estimate has no interval.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    sides = p_above(estimate, -margin), p_below(estimate, margin)
    p = None if None in sides else max(side for side in sides if side is not None)
    return Equivalence(margin, alpha, p, at_level(estimate, 1 - 2 * alpha))


def minimum_detectable_effect(estimate: Estimate, alpha: float = 0.05, power: float = POWER) -> float | None:
    """Smallest true difference that a two-sided test at alpha finds with this power, in the estimate's units.

    (z_{1−α/2} + z_power) · SE (Bloom 1995; Miller, arXiv:2411.00640 §5); None without a standard error. Binary metrics
    count one flip more than was seen, so that none seen does not promise infinite resolution.
    """
    if estimate.se is None:
        return None
    return (_z(1 - alpha / 2) + _z(power)) * _planning_se(estimate)


def smallest_margin(n: int, flip_rate: float, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest margin of accuracy, 0…1, that n items can settle where equal arms differ in `flip_rate` of answers.

    (z_{1−α} + z_{(1+power)/2}) · √(flip_rate/n), of TOST with this power (Chow, Shao & Wang 2008 §3.2).
    """
    return (_z(1 - alpha) + _z((1 + power) / 2)) * math.sqrt(flip_rate / n)


def items_to_settle(
    estimate: Estimate, margin: float, alpha: float = 0.05, power: float = POWER, tests: int = 1
) -> int | None:
    """Items (in all) that would make an inconclusive result conclusive, if value and spread stay what they are.

    The smaller of two sample sizes with this power: to find the difference at alpha over `tests` (Bonferroni's bound
    on Holm), n·((z_{1−α/2} + z_power)·SE/|d|)²; and, where |d| < margin, to establish equivalence by TOST,
    n·((z_{1−α} + z_b)·SE/(margin − |d|))², z_b = z_{(1+power)/2} for d = 0 and z_power where one side decides (Chow,
    Shao & Wang 2008 §3.2). More than the items there are; None without a standard error.
    """
    if estimate.se is None:
        return None
    se, gap = _planning_se(estimate), abs(estimate.value)
    needed = []
    if gap > 0:
        needed.append(((_z(1 - alpha / (2 * tests)) + _z(power)) * se / gap) ** 2)
    if gap < margin:
        sides = power if gap > 0 else (1 + power) / 2
        needed.append(((_z(1 - alpha) + _z(sides)) * se / (margin - gap)) ** 2)
    return max(MIN_UNITS, estimate.n + 1, math.ceil(min(needed) * estimate.n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6:65, 1979), in the order given; none for none.

    As statsmodels' `multipletests`, which collects garbage on each call: a tenth of a second in a large process.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1.0)
    return [float(x) for x in adjusted]


def _planning_se(estimate: Estimate) -> float:
    if estimate.counts is None:
        return estimate.se or 0.0
    gained, lost, n = estimate.counts
    return math.sqrt((gained + lost + 1) / n - estimate.value**2) / math.sqrt(n)


def _df(estimate: Estimate) -> float:
    if estimate.df is None:
        raise ValueError(f"an interval made by {estimate.method!r} cannot be read at another level")
    return estimate.df


def _z(probability: float) -> float:
    return float(stats.norm.ppf(probability))
