"""Paired estimates: means, differences between two arms on the same items, ratios of sums; with honest intervals.

    >>> paired_difference([1, 0, 1, 1] * 100, [1, 0, 1, 1] * 100).method
    'Tango score'

Binary metrics get Tango's score interval, everything else Student's t on the paired differences (Miller,
arXiv:2411.00640 §4). `clusters` names the unit that is independent (the document a token stands in), `strata` the fixed
groups of the design (MMLU's subjects). All take [n] arrays and raise ValueError on NaN, wrong shapes, unequal lengths.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .estimate import Estimate, Floats, column, linearised_variance, same_length, t_interval
from .proportions import Flips, flips, mcnemar_exact, tango_interval

__all__ = ["Estimate", "Flips", "flips", "mean", "paired_difference", "paired_ratio_difference", "ratio_of_sums"]

Labels = npt.ArrayLike | None


def _name(base: str, clusters: Labels, strata: Labels) -> str:
    return base + (", clustered" if clusters is not None else "") + (", stratified" if strata is not None else "")


def _check_labels(n: int, clusters: Labels, strata: Labels) -> None:
    for name, labels in (("clusters", clusters), ("strata", strata)):
        if labels is not None and np.shape(np.asarray(labels)) != (n,):
            raise ValueError(f"{name}: want one label for each of the {n} items, got {np.shape(np.asarray(labels))}")


def _ratio(y: Floats, x: Floats, clusters: Labels, strata: Labels, level: float, method: str) -> Estimate:
    _check_labels(y.size, clusters, strata)
    total = float(x.sum())
    if total <= 0 or (x < 0).any():
        raise ValueError("denominator: want values of at least zero whose sum is positive")
    value = float(y.sum()) / total
    variance, df, units = linearised_variance(y - value * x, total, clusters, strata)
    return t_interval(value, variance, df, units, y.size, level, _name(method, clusters, strata))


def mean(x: npt.ArrayLike, *, clusters: Labels = None, strata: Labels = None, level: float = 0.95) -> Estimate:
    """Mean of x, [n], in its units, with Student's t interval (Miller, arXiv:2411.00640 §2)."""
    values = column(x, "x")
    return _ratio(values, np.ones_like(values), clusters, strata, level, "t")


def paired_difference(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    clusters: Labels = None,
    strata: Labels = None,
    level: float = 0.95,
) -> Estimate:
    """Mean of candidate − baseline over the same items, each [n], in their units.

    Where both hold only 0 and 1: Tango's score interval and the exact McNemar p-value. Clusters or strata then enter by
    their design effect D = V/V_simple, which divides the counts (Rao & Scott, Biometrics 48:577, 1992); p is then the
    score test of the effective counts. With no flip at all D cannot be seen and is taken as 1.
    """
    base, cand = column(baseline, "baseline"), column(candidate, "candidate")
    same_length(baseline=base, candidate=cand)
    plain = _ratio(cand - base, np.ones_like(base), clusters, strata, level, "paired t")
    if plain.se is None or not (np.isin(base, (0, 1)).all() and np.isin(cand, (0, 1)).all()):
        return plain
    table = flips(base, cand)
    simple = ((table.lost + table.gained) - (table.gained - table.lost) ** 2 / table.n) / (table.n * (table.n - 1))
    effect = plain.se**2 / simple if simple > 0 and plain.se > 0 else 1.0
    low, high = tango_interval(table.gained / effect, table.lost / effect, table.n / effect, level)
    p = mcnemar_exact(table.lost, table.gained)
    if clusters is not None or strata is not None:
        discordant = (table.lost + table.gained) / effect
        p = math.erfc(abs(table.gained - table.lost) / effect / math.sqrt(2 * discordant)) if discordant else 1.0
    method = _name("Tango score", clusters, strata)
    return replace(plain, low=float(low), high=float(high), p=p, method=method)


def ratio_of_sums(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, *, clusters: Labels = None, level: float = 0.95
) -> Estimate:
    """Σnumerator / Σdenominator, e.g. −log-likelihood over words = log-perplexity in nats; each [n], by linearisation.

    Cochran, Sampling Techniques (1977) §6.3; an item is what is drawn as a whole (a document), or set `clusters`.
    """
    y, x = column(numerator, "numerator"), column(denominator, "denominator")
    same_length(numerator=y, denominator=x)
    return _ratio(y, x, clusters, None, level, "ratio t")


def paired_ratio_difference(
    base_num: npt.ArrayLike,
    cand_num: npt.ArrayLike,
    denominator: npt.ArrayLike,
    *,
    clusters: Labels = None,
    level: float = 0.95,
) -> Estimate:
    """Σcand_num/Σdenominator − Σbase_num/Σdenominator over the same items, each [n].

    With negative log-likelihoods over words or tokens this is the log-perplexity difference in nats, and exp of value
    and ends the perplexity ratio; the pairing is llama.cpp's covariance term (ln-ratio SE = √(σ_q² + σ_b² − 2cov)).
    """
    base, cand, x = column(base_num, "base_num"), column(cand_num, "cand_num"), column(denominator, "denominator")
    same_length(base_num=base, cand_num=cand, denominator=x)
    return _ratio(cand - base, x, clusters, None, level, "paired ratio t")
