"""Paired estimates: means, differences between two arms on the same items, ratios of sums; with honest intervals.

    >>> paired_difference([1, 0, 1, 1] * 100, [1, 0, 1, 1] * 100).method
    'Tango score'

Binary metrics get score intervals (Wilson for one arm, Tango for a difference), everything else Student's t on the
paired differences (Miller, arXiv:2411.00640 §4). `clusters` names the unit that is independent (the document a token
stands in), `strata` the fixed groups of the design (MMLU's subjects). All take [n] arrays and raise ValueError on NaN,
wrong shapes and unequal lengths.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .estimate import Estimate, Floats, column, linearised, same_length, t_interval
from .proportions import Flips, flips, mcnemar_exact, tango_interval, wilson

__all__ = ["Estimate", "Flips", "flips", "mean", "paired_difference", "paired_ratio_difference", "ratio_of_sums"]

Labels = npt.ArrayLike | None

SMALLEST_EFFECT = 0.5
"""Strata and clusters may narrow a score interval as if there were at most twice the items."""


def _name(base: str, clusters: Labels, strata: Labels) -> str:
    return base + (", clustered" if clusters is not None else "") + (", stratified" if strata is not None else "")


def _check_labels(n: int, clusters: Labels, strata: Labels) -> None:
    for name, labels in (("clusters", clusters), ("strata", strata)):
        if labels is not None and np.shape(np.asarray(labels)) != (n,):
            raise ValueError(f"{name}: want one label for each of the {n} items, got {np.shape(np.asarray(labels))}")


def _is_binary(values: Floats) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _design_effect(plain: Estimate, simple: float, clusters: Labels) -> float:
    # flips that cancel within every cluster, or fill a stratum, leave no spread: no evidence that D is near 0
    effect = (plain.se or 0.0) ** 2 / simple if simple > 0 else 1.0
    effect = 1.0 if effect < 1e-9 else max(effect, SMALLEST_EFFECT)
    if clusters is None or plain.df is None:
        return effect
    # Few clusters know their own spread badly: as Student's t is wider than the normal (Korn & Graubard 1998).
    from scipy import stats

    return effect * float(stats.t.ppf(0.975, plain.df) / stats.norm.ppf(0.975)) ** 2


def _ratio(y: Floats, x: Floats, clusters: Labels, strata: Labels, level: float, method: str) -> Estimate:
    _check_labels(y.size, clusters, strata)
    total = float(x.sum())
    if total <= 0 or (x < 0).any():
        raise ValueError("denominator: want values of at least zero whose sum is positive")
    value = float(y.sum()) / total
    binary = _is_binary(np.abs(y)) and bool((x == 1).all())  # which get score intervals
    found = linearised(y - value * x, x, clusters, strata, resample=not binary)
    return t_interval(value, found, y.size, level, _name(method, clusters, strata))


def mean(x: npt.ArrayLike, *, clusters: Labels = None, strata: Labels = None, level: float = 0.95) -> Estimate:
    """Mean of x, [n], in its units: Student's t interval (Miller, arXiv:2411.00640 §2), Wilson's for 0 and 1.

    Clusters and strata enter Wilson's interval through the effective n (Korn & Graubard 1998): see `paired_difference`.
    """
    values = column(x, "x")
    plain = _ratio(values, np.ones_like(values), clusters, strata, level, "t")
    if plain.se is None or not _is_binary(values):
        return plain
    simple = plain.value * (1 - plain.value) / (plain.n - 1)
    size = plain.n / _design_effect(plain, simple, clusters)
    low, high = wilson(plain.value * size, size, level)
    method = _name("Wilson score", clusters, strata)
    return replace(plain, low=low, high=high, p=None, df=None, resampled=None, method=method)


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
    their design effect D = V/V_simple, which divides the counts (Rao & Scott, Biometrics 48:577, 1992), those of the
    exact test only where it is above 1. With no flip at all D cannot be seen and is taken as 1.
    """
    base, cand = column(baseline, "baseline"), column(candidate, "candidate")
    same_length(baseline=base, candidate=cand)
    plain = _ratio(cand - base, np.ones_like(base), clusters, strata, level, "paired t")
    if plain.se is None or not (_is_binary(base) and _is_binary(cand)):
        return plain
    table = flips(base, cand)
    simple = ((table.lost + table.gained) - (table.gained - table.lost) ** 2 / table.n) / (table.n * (table.n - 1))
    designed = clusters is not None or strata is not None
    effect = _design_effect(plain, simple, clusters) if designed else 1.0
    counts = (table.gained / effect, table.lost / effect, table.n / effect)
    low, high = tango_interval(*counts, level)
    # Never more evidence than there are flips: the test would be exact no longer.
    p = mcnemar_exact(table.lost / max(1.0, effect), table.gained / max(1.0, effect))
    method = _name("Tango score", clusters, strata)
    return replace(plain, low=float(low), high=float(high), p=p, method=method, df=None, counts=counts, resampled=None)


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
