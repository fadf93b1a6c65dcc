"""Looking at the data before all of it is there, without paying for it in false verdicts.

Each look spends a part of α that was fixed beforehand: Lan and DeMets' spending function (Biometrika 70:659, 1983) of
O'Brien and Fleming's type, which spends almost nothing early, so that the last look is nearly an ordinary test. What is
reported are repeated confidence intervals and p-values (Jennison and Turnbull, JRSS B 51:305, 1989): they hold at all
looks together, and so wherever one stops and for whatever reason. Both sides of an equivalence test, and a loss's
one-sided test, are each such a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Floats = npt.NDArray[np.float64]

LOOKS = (0.1, 0.25, 0.5, 1.0)
"""Shares of the items at which a comparison that may stop early is looked at."""
_Z = np.linspace(0.05, 8.0, 41)
"""Normal quantiles of α, one-sided, at which boundaries are computed; read between them."""
_POINTS = 201


def spent(share: float, alpha: float) -> float:
    """What of the one-sided `alpha` may be spent once `share` (0…1) of the information is there."""
    return 2 * float(stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(share)))


def boundaries(shares: Sequence[float], alpha: float) -> list[float]:
    """By look, the z beyond which a one-sided test at `alpha` over all looks rejects; `shares` of information ascend.

    By recursive integration over what has not been rejected yet (Armitage, McPherson and Rowe, JRSS A 132:235, 1969).
    """
    found: list[float] = []
    before, gone = 0.0, 0.0
    grid: Floats = np.zeros(1)
    density: Floats = np.ones(1)
    for share in shares:
        step, total = math.sqrt(share - before), spent(share, alpha)

        target = math.log(max(total - gone, 1e-300))
        z = optimize.brentq(_off, -8, 38, (math.sqrt(share), step, grid, density, target))
        found.append(float(z))
        ahead = np.linspace(-8 * math.sqrt(share), z * math.sqrt(share), _POINTS)
        jump = np.exp(-0.5 * ((ahead[:, None] - grid) / step) ** 2) / (step * math.sqrt(2 * math.pi)) * density
        density = np.asarray(jump[:, 0] if grid.size == 1 else np.trapezoid(jump, grid, axis=1))
        grid, before, gone = ahead, share, total
    return found


def _off(z: float, root: float, step: float, grid: Floats, density: Floats, target: float) -> float:
    """The logarithm of the probability to be beyond `z` now and not before, less `target`."""
    rest = special.ndtr((grid - z * root) / step) * density
    return math.log(max(float(rest[0] if rest.size == 1 else np.trapezoid(rest, grid)), 1e-320)) - target


@lru_cache(maxsize=256)
def _last(shares: tuple[float, ...]) -> Floats:
    """The boundary at the last look, for each α whose quantile is in `_Z`."""
    return np.maximum.accumulate([boundaries(shares, float(stats.norm.sf(z)))[-1] for z in _Z])


def nominal(alpha: float, shares: tuple[float, ...]) -> float:
    """The one-sided level of an ordinary test at the last of `shares`, for one at `alpha` over all of them."""
    return float(stats.norm.sf(_read(float(stats.norm.isf(alpha)), _Z, _last(shares))))


def overall(p: float, shares: tuple[float, ...]) -> float:
    """The repeated p-value, one-sided: the least α at which the last of `shares` rejects; `p` is a plain test's."""
    if p >= 0.5:
        return 1.0
    return max(p, float(stats.norm.sf(_read(float(stats.norm.isf(p)), _last(shares), _Z))))


def _read(x: float, known: Floats, values: Floats) -> float:
    """Linear between what is known, and on from its end."""
    if x > known[-1]:
        return float(values[-1] + (x - known[-1]) * (values[-1] - values[-2]) / (known[-1] - known[-2]))
    return float(np.interp(x, known, values))
