"""One word for each task, and one for all, each with its reason.

The tests act on the paired difference candidate − baseline. "Equivalent" is a claim and needs evidence: the interval
inside the margin, and a positive control that proves the instrument could have seen damage. Losses need no control:
damage that is seen needs no proof that it can be seen, and neither a baseline at chance nor a low coverage excuses it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from .equivalence import Equivalence, equivalence, holm, items_to_settle, p_above, p_below
from .estimate import MIN_UNITS, Estimate

Kind = Literal["equivalent", "equivalent (blunt)", "worse", "loss found", "better", "inconclusive", "not established"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GRAVEST_FIRST: tuple[Kind, ...] = (
    "worse", "loss found", "not established", "inconclusive", "better", "equivalent (blunt)", "equivalent",
)  # fmt: skip
BLUNT = 2.0
"""An instrument whose smallest damage seen is more than so many margins is a blunt one."""
RARE = 0.05
"""The share of units that a loss may be confined to and should still be seen."""


@dataclass(frozen=True)
class Metric:
    """What is compared: the margin of equivalence in the metric's unit, and how to print it (value × scale, unit)."""

    name: str
    margin: float
    higher_is_better: bool
    unit: str
    scale: float = 1.0

    def show(self, value: float) -> str:
        """`value` signed and with its unit, for people."""
        return f"{value * self.scale:+.3g} {self.unit}"


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", 0.005, True, "pp", 100),
        Metric("log_perplexity", 0.005, False, "nats"),
        Metric("retrieval", 0.02, True, "pp", 100),
        Metric("kl_divergence", 0.005, False, "nats"),
    )
}
"""Default margins: accuracy 0.5 pp, log-perplexity 0.005 (half a percent of perplexity), retrieval 2 pp, KL divergence
0.005 nats a token. On text that the baseline itself would write it is the expected loss of log-perplexity, and so has
that margin; it is also what 6-bit weights cost (llama.cpp's q6_K of Llama 3 8B: 0.0055, q8_0: 0.0014)."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one task. Estimates are differences to the baseline, in the metric's own unit.

    `controls` are such differences of damaged arms, by name; `doses` names those of them that are one kind of damage in
    several strengths, the strongest first. `baseline` is its own score, to be held against `chance`, the best that an
    answer without a look at the question can score; `coverage` (0…1) against `required_coverage`, which is None outside
    fidelity mode; `no_gain` why a significant gain is none.
    """

    task: str
    metric: Metric
    difference: Estimate
    controls: Mapping[str, Estimate] = field(default_factory=dict)
    doses: Sequence[str] = ()
    baseline: Estimate | None = None
    chance: float | None = None
    coverage: float | None = None
    required_coverage: float | None = None
    no_gain: str | None = None


@dataclass(frozen=True)
class Judged:
    """The verdict on one task: `p` is Holm-adjusted, `items` would settle it.

    `p_beyond` is that of "the loss is no greater than the margin", two-sided and Holm-adjusted as well; `sharpness` the
    smallest damage seen, in margins.
    """

    task: str
    kind: Kind
    reason: str
    evidence: Evidence
    equivalence: Equivalence
    p: float | None
    significant: bool
    items: int | None
    p_beyond: float | None = None
    sharpness: float | None = None


@dataclass(frozen=True)
class JudgedAll:
    """The overall verdict and those it rests on."""

    kind: Kind
    reason: str
    tasks: tuple[Judged, ...]


def judge(evidence: Sequence[Evidence], alpha: float = 0.05) -> JudgedAll:
    """Judge every task, with Holm's correction over all of them, and draw the overall verdict.

    Overall: worse if any task is; then loss found, not established and inconclusive likewise; better if some task is
    and the rest are equivalent; equivalent only if every task is, and bluntly if any is. ValueError without tasks.
    """
    if not evidence:
        raise ValueError("judge: want at least one task")
    adjusted = _adjusted([item.difference.p for item in evidence])
    beyond = _adjusted([_p_beyond(item) for item in evidence])
    tests = max(1, sum(p is not None for p in adjusted))
    tasks = tuple(
        _judge_task(item, p, far, alpha, tests) for item, p, far in zip(evidence, adjusted, beyond, strict=True)
    )
    kind = min((task.kind for task in tasks), key=GRAVEST_FIRST.index)
    named = [task.task for task in tasks if task.kind == kind]
    count = "every task" if len(named) == len(tasks) else f"{len(named)} of {len(tasks)} tasks"
    return JudgedAll(kind, f"{kind} in {count}: {', '.join(named)}", tasks)


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    known = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(known) for p in p_values]


def _p_beyond(item: Evidence) -> float | None:
    """Two-sided p-value of "the loss is no greater than the margin": under 5 % where the 95 % interval is beyond it."""
    margin = item.metric.margin
    lower = item.metric.higher_is_better
    p = p_below(item.difference, -margin) if lower else p_above(item.difference, margin)
    return None if p is None else min(1.0, 2 * p)


def _judge_task(item: Evidence, p: float | None, beyond: float | None, alpha: float, tests: int) -> Judged:
    difference, metric = item.difference, item.metric
    tost = equivalence(difference, metric.margin, alpha)
    significant = p is not None and p < alpha
    harmful = _harm(metric, difference) > 0
    barred, unseen = _barred(item), unseen_control(item, alpha)
    sharpness = smallest_seen(item, alpha)
    shown, chance = _shown(metric, difference), "" if p is None else f", p = {p:.2g} after Holm's correction"
    margin = f"{metric.margin * metric.scale:g} {metric.unit}".rstrip()
    items = None
    kind: Kind
    if beyond is not None and beyond < alpha:
        kind, reason = "worse", f"{shown}{chance}; beyond the margin of {margin} (p = {beyond:.2g})"
    elif significant and harmful and not tost.equivalent:
        kind, reason = "loss found", f"{shown}{chance}; whether it exceeds the margin of {margin} is not settled"
    elif barred is not None:
        kind, reason = "not established", barred
    elif difference.se is None:
        worth = difference.units if difference.effective is None else difference.effective
        kind, items = "inconclusive", math.ceil(difference.n * MIN_UNITS / max(1.0, worth))
        reason = f"{difference.method}; at least {MIN_UNITS} are needed, about {items:,} items"
    elif unseen is not None:
        kind, reason = "not established", unseen
    elif tost.equivalent:
        blunt = sharpness is not None and sharpness > BLUNT
        kind = "equivalent (blunt)" if blunt else "equivalent"
        reason = f"{_shown(metric, tost.interval)} lies within ±{margin}"
        if significant:
            reason += f"; a significant {'loss' if harmful else 'gain'} (p = {p:.2g}), but inside the margin"
        reason += _sensitivity(item, sharpness, alpha) + "".join(
            f"; take care: {caution}" for caution in cautions(difference, alpha)
        )
    elif significant and item.no_gain:
        kind, reason = "not established", f"{shown}{chance}, but {item.no_gain}"
    elif significant:
        kind, reason = "better", f"{shown}{chance}"
    else:
        items = items_to_settle(difference, metric.margin, alpha, tests=tests)
        kind, reason = "inconclusive", f"{shown}; about {items:,} items would settle it"
    if kind in ("worse", "loss found") and barred is not None:
        reason += f" (although {barred})"
    return Judged(item.task, kind, reason, item, tost, p, significant, items, beyond, sharpness)


def _barred(item: Evidence) -> str | None:
    """Why nothing good can be said of the task whatever the difference is; None if it can."""
    if item.required_coverage is not None and (item.coverage is None or item.coverage < item.required_coverage):
        reached = "unknown" if item.coverage is None else f"{100 * item.coverage:.2f} %"
        return f"coverage is {reached}, fidelity mode wants {100 * item.required_coverage:g} %"
    if item.chance is not None and item.baseline is not None:
        low = item.baseline.low
        if low is not None and low <= item.chance:
            return (
                f"the baseline is at chance: {item.baseline.value:.3g} against {item.chance:.3g}, nothing can be lost"
            )
    return None


def seen_controls(item: Evidence, alpha: float = 0.05) -> list[str]:
    """The controls that prove that damage can be seen in this task: a significant loss, greater than the candidate's.

    Each named control is tested at `alpha`, and the doses are from the strongest down, each at `alpha` as well, until
    one is not seen: as their order was fixed beforehand, that needs no correction (Maurer, Hothorn & Lehmacher 1995),
    and how many weaker ones ran changes nothing. The loss may be smaller than the margin: `smallest_seen` says how
    sharp an instrument this makes the task.
    """
    candidate = _harm(item.metric, item.difference)

    def seen(name: str) -> bool:
        control = item.controls[name]
        loss = _harm(item.metric, control)
        return control.p is not None and control.p < alpha and loss > max(candidate, 0.0)

    found = {name for name in item.controls if name not in item.doses and seen(name)}
    for name in item.doses:
        if not seen(name):
            break
        found.add(name)
    return [name for name in item.controls if name in found]


def smallest_seen(item: Evidence, alpha: float = 0.05) -> float | None:
    """The smallest damage that was seen, in margins; None where none was."""
    losses = [_harm(item.metric, item.controls[name]) for name in seen_controls(item, alpha)]
    return min(losses) / item.metric.margin if losses else None


def unseen_control(item: Evidence, alpha: float = 0.05) -> str | None:
    """Why no control proves that damage can be seen in this task; None if one does."""
    if not item.controls:
        return "no positive control ran: nothing shows that this task can see damage"
    if seen_controls(item, alpha):
        return None
    metric = item.metric
    best = max(item.controls, key=lambda name: _harm(metric, item.controls[name]))
    control = item.controls[best]
    shown = metric.show(control.value)
    if control.p is None or control.p >= alpha or _harm(metric, control) <= 0:
        return f"the damaged arm {best} was not seen: {shown} is not a significant loss"
    if best in item.doses and _harm(metric, control) > _harm(metric, item.difference):
        return f"the damaged arm {best} ({shown}) does not count, as stronger doses were not seen"
    return f"the damaged arm {best} ({shown}) is not beyond the candidate ({metric.show(item.difference.value)})"


def in_margins(damage: float) -> str:
    """A number of margins, for people."""
    return f"{damage:.2g} margins" if damage < 10 else f"{damage:,.0f} margins"


def _sensitivity(item: Evidence, sharpness: float | None, alpha: float) -> str:
    """Which damage the task saw and which it did not, and how sharp an instrument that makes it."""
    seen = seen_controls(item, alpha)
    unseen = [name for name in item.controls if name not in seen]
    sharp = "" if sharpness is None else f"; the smallest damage seen is {in_margins(sharpness)}"
    if sharpness is not None and sharpness > BLUNT:
        sharp += ", a blunt instrument (weaker damage: --arms stress=4,stress=16)"
    return sharp + (f"; damage seen: {', '.join(seen)}; not seen: {', '.join(unseen)}" if unseen else "")


def cautions(difference: Estimate, alpha: float = 0.05) -> list[str]:
    """Why an interval may be too short: a few units carry the difference, or none of those that would is there."""
    found = []
    if difference.skewed:
        found.append(
            f"a few of its {difference.units:,} units carry the difference (skewness {difference.skewness:.2g}), so "
            "that the interval may be too short"
        )
    if (missed := (1 - RARE) ** difference.units) > alpha:
        found.append(
            f"a loss that one unit in {1 / RARE:.0f} carries is in none of {difference.units} with a probability of "
            f"{missed:.0%}"
        )
    return found


def _harm(metric: Metric, estimate: Estimate) -> float:
    return -estimate.value if metric.higher_is_better else estimate.value


def _shown(metric: Metric, estimate: Estimate) -> str:
    low, high = ((estimate.low or 0.0) * metric.scale, (estimate.high or 0.0) * metric.scale)
    return f"{metric.show(estimate.value)} ({100 * estimate.level:g} % interval {low:+.3g} … {high:+.3g})"
