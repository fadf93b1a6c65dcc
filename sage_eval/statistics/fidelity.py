"""How far the candidate's next-token distributions are from the baseline's: llama.cpp's columns, with clustered errors.

Mean KLD, Δp of the true token, same-top and the perplexity ratio, each over all token positions, with percentiles; the
error counts documents, not tokens, as tokens of one document are not independent (llama.cpp's own ± does not do that).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .divergence import Divergence
from .estimate import MIN_UNITS, Codes, Estimate, Floats, codes, column, linearised, same_length
from .paired import mean, paired_ratio_difference

KLD_PERCENTILES = (100.0, 99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1, 0.0)
"""The lines of llama.cpp's "KL divergence statistics" (tools/perplexity)."""
DELTA_P_PERCENTILES = (100.0, 99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1, 0.0)
"""The lines of llama.cpp's "Token probability statistics"."""
_TAIL = 0.975
"""Quantile of a two-sided interval at 95 %."""


@dataclass(frozen=True)
class Fidelity:
    """KLD in nats, Δp as a probability difference (−1…1), same_top as a share; `note` says what the KLD is."""

    kld: Estimate
    kld_percentiles: Mapping[float, Estimate]
    delta_p: Estimate
    delta_p_rms: Estimate
    delta_p_percentiles: Mapping[float, Estimate]
    same_top: Estimate
    log_perplexity: Estimate
    perplexity_ratio: Estimate
    common_mass: Estimate
    positions: int
    documents: int
    exact: bool
    note: str


def fidelity(
    distributions: Divergence,
    base_true: npt.ArrayLike,
    cand_true: npt.ArrayLike,
    documents: npt.ArrayLike,
) -> Fidelity:
    """Summarise N token positions: `divergence(…)`, the true token's log-probability in both arms [N], documents [N].

    `log_perplexity` is candidate − baseline in nats a token, `perplexity_ratio` its exponential. ValueError on NaN or
    unequal lengths.
    """
    base, cand = column(base_true, "base_true"), column(cand_true, "cand_true")
    document, count = codes(documents)
    same_length(kl=distributions.kl, base_true=base, cand_true=cand, documents=document)
    delta_p = np.exp(cand) - np.exp(base)
    log_ratio = paired_ratio_difference(-base, -cand, np.ones_like(base), clusters=document)
    mass = mean(distributions.mass, clusters=document)
    share = f"ids in both lists hold {100 * mass.value:.2f} % of the baseline's probability"
    note = "exact" if distributions.exact else f"lower bound from top-k lists: {share}"
    return Fidelity(
        kld=mean(distributions.kl, clusters=document),
        kld_percentiles=percentiles(distributions.kl, KLD_PERCENTILES, document),
        delta_p=mean(delta_p, clusters=document),
        delta_p_rms=root_mean_square(delta_p, document),
        delta_p_percentiles=percentiles(delta_p, DELTA_P_PERCENTILES, document),
        same_top=mean(distributions.same_top, clusters=document),
        log_perplexity=log_ratio,
        perplexity_ratio=_exponential(log_ratio),
        common_mass=mass,
        positions=base.size,
        documents=count,
        exact=distributions.exact,
        note=note,
    )


def root_mean_square(x: npt.ArrayLike, clusters: npt.ArrayLike | None = None) -> Estimate:
    """√mean(x²), [n], in the units of x; SE by the delta method, 0.5/rms · SE(mean square), as llama.cpp does."""
    square = mean(np.asarray(x, dtype=np.float64) ** 2, clusters=clusters)
    rms = math.sqrt(square.value)
    if square.se is None or square.low is None or square.high is None:
        return replace(square, value=rms)
    low, high = math.sqrt(max(square.low, 0.0)), math.sqrt(square.high)
    se = square.se / (2 * rms) if rms > 0 else 0.0
    return replace(
        square, value=rms, se=se, low=low, high=high, method=f"root of {square.method}", p=None, df=None, resampled=None
    )


def percentiles(
    x: npt.ArrayLike, at: tuple[float, ...], clusters: npt.ArrayLike | None = None
) -> dict[float, Estimate]:
    """Percentiles (0…100) of x, [n], with Woodruff's intervals (JASA 47:635, 1952), in the units of x.

    The clustered interval of the share below the percentile is mapped back through the percentiles themselves. Minimum
    and maximum get none, nor does a percentile so far out that its interval leaves the sample.
    """
    from scipy import stats

    values = column(x, "x")
    cluster: Codes = np.arange(values.size) if clusters is None else codes(clusters)[0]
    ordered = np.sort(values)
    result = {}
    for percent in at:
        point = _quantile(ordered, percent / 100)
        below = (values <= point).astype(np.float64)
        found = linearised(below - below.mean(), np.ones_like(below), cluster)
        df, units = found.df, found.units
        blank = Estimate(point, None, None, None, values.size, "no interval at the edge of the sample", units=units)
        reach = float(stats.t.ppf(_TAIL, df)) * math.sqrt(found.variance)
        low, high = percent / 100 - reach, percent / 100 + reach
        if found.effective < MIN_UNITS:
            blank = replace(blank, method=f"too few ({units} independent units)")
        elif low > 0 and high < 1 and 0 < percent < 100:
            ends = _quantile(ordered, low), _quantile(ordered, high)
            se = (ends[1] - ends[0]) / (2 * float(stats.t.ppf(_TAIL, df)))
            blank = replace(blank, se=se, low=ends[0], high=ends[1], method="Woodruff")
        result[percent] = blank
    return result


def _quantile(ordered: Floats, share: float) -> float:
    """Linear interpolation between order statistics, as numpy and llama.cpp do, of values sorted beforehand."""
    position = share * (ordered.size - 1)
    lower = math.floor(position)
    upper = min(lower + 1, ordered.size - 1)
    return float(ordered[lower] + (position - lower) * (ordered[upper] - ordered[lower]))


def _exponential(log: Estimate) -> Estimate:
    value = math.exp(log.value)
    if log.se is None or log.low is None or log.high is None:
        return replace(log, value=value)
    return replace(
        log,
        value=value,
        se=value * log.se,
        low=math.exp(log.low),
        high=math.exp(log.high),
        method=f"exponential of {log.method}",
        p=None,
        df=None,
        resampled=None,
    )
