"""Which settings of `sage_attn` a machine's kernel benchmark speaks for, by head size."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sage_eval.measure.kernels.cases import EXACT, OURS, Case
from sage_eval.measure.kernels.instrument import Timing

LEAST = 1.0
"""A length counts as faster from this ratio on."""


class Advice(NamedTuple):
    """`variant` is at least as fast as `rival` for sequences of `min_tokens` and more; None where it never is.

    `ratios` are the rival's time over `variant`'s (or the fastest variant's, where none is faster) by new tokens.
    """

    head_dim: int
    rival: str
    variant: str | None
    min_tokens: int | None
    ratios: dict[int, float]


def recommend(rows: Iterable[Timing]) -> list[Advice]:
    """Advice from the rows of `bench kernels`, one for each head size that has both ours and a rival.

    Only prefills without a prefix count, and of several batches of a length the slowest ratio: a setting must not
    lose where it is said to win. Of the variants, the one that is faster from the shortest length on.
    """
    times: dict[int, dict[str, dict[tuple[int, int], float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.ms and not (case := Case.named(row.cell)).prefix:
            times[case.dim][row.arm][case.new, case.batch] = row.ms[1]
    found = []
    for dim, kernels in sorted(times.items(), reverse=True):
        rival = next((column for column in EXACT if column in kernels), None)
        candidates = {name: _ratios(kernels[rival], kernels[name]) for name in OURS if rival and name in kernels}
        if not rival or not any(candidates.values()):
            continue
        starts = {name: start for name, ratios in candidates.items() if (start := _from(ratios)) is not None}
        best = min(starts, key=lambda name: (starts[name], -_longest(candidates[name])), default=None)
        shown = best or max(candidates, key=lambda name: _longest(candidates[name]))
        found.append(Advice(dim, EXACT[rival], best, starts.get(best or ""), candidates[shown]))
    return found


def text(advice: Iterable[Advice]) -> str:
    """One line per head size."""
    lines = []
    for one in advice:
        spread = ", ".join(f"{ratio:.2f} at {length:,}" for length, ratio in one.ratios.items())
        if one.variant is None:
            lines.append(f"head_dim {one.head_dim}: keep {one.rival}, which is faster at every length ({spread})")
        else:
            settings = f"variant={one.variant}" + (f",min_tokens={one.min_tokens}" if one.min_tokens else "")
            lines.append(f"head_dim {one.head_dim}: sage_attn with {settings}; speed against {one.rival}: {spread}")
    return "\n".join(lines) or "no kernel of ours was timed beside an exact one: nothing to recommend"


def _ratios(rival: Mapping[tuple[int, int], float], ours: Mapping[tuple[int, int], float]) -> dict[int, float]:
    slowest: dict[int, float] = {}
    for case in sorted(rival.keys() & ours.keys()):
        slowest[case[0]] = min(rival[case] / ours[case], slowest.get(case[0], float("inf")))
    return slowest


def _from(ratios: Mapping[int, float]) -> int | None:
    """The shortest length from which on no longer one is slower; 0 where none at all is."""
    start = None
    for length in sorted(ratios, reverse=True):
        if ratios[length] < LEAST:
            break
        start = length
    return 0 if start is not None and start == min(ratios) else start


def _longest(ratios: Mapping[int, float]) -> float:
    return ratios[max(ratios)] if ratios else 0.0
