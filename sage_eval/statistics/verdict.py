"""One word a task, and one for all: equivalent, worse, better, inconclusive, or not established, each with its reason.

The tests act on the paired difference candidate − baseline. "Equivalent" is a claim and needs evidence: the interval
inside the margin, and a positive control that proves the instrument could have seen the margin. "Worse" needs no
control: damage that is seen needs no proof that it can be seen, and a candidate below the control must not pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .equivalence import Equivalence, equivalence, holm, items_to_settle
from .estimate import MIN_UNITS, Estimate

Kind = Literal["equivalent", "worse", "better", "inconclusive", "not established"]
KINDS: tuple[Kind, ...] = ("equivalent", "worse", "better", "inconclusive", "not established")


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
    )
}
"""Default margins: accuracy 0.5 pp, log-perplexity 0.005 (half a percent of perplexity), retrieval 2 pp."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one task. Estimates are differences to the baseline, in the metric's own unit.

    `controls` and `floor` are such differences of damaged arms, by name, and of the baseline to itself; `baseline` is
    its own score, to be held against `chance`, the best that an answer without a look at the question can score;
    `coverage` (0…1) is held against `required_coverage`, None outside fidelity mode.
    """

    task: str
    metric: Metric
    difference: Estimate
    controls: Mapping[str, Estimate] = field(default_factory=dict)
    floor: Estimate | None = None
    baseline: Estimate | None = None
    chance: float | None = None
    coverage: float | None = None
    required_coverage: float | None = None
    hashes_match: bool = True


@dataclass(frozen=True)
class TaskVerdict:
    """The verdict on one task: `p` is Holm-adjusted, `items` would settle it, `excess` is difference − floor."""

    task: str
    kind: Kind
    reason: str
    evidence: Evidence
    equivalence: Equivalence
    p: float | None
    significant: bool
    items: int | None
    excess: float | None


@dataclass(frozen=True)
class Verdict:
    """The overall verdict and those it rests on."""

    kind: Kind
    reason: str
    tasks: tuple[TaskVerdict, ...]

    def fails(self, fail_on: Collection[str]) -> bool:
        """Whether the overall verdict or that of any task is among `fail_on`; ValueError for an unknown kind."""
        if unknown := set(fail_on) - set(KINDS):
            raise ValueError(f"unknown verdict {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
        return self.kind in fail_on or any(task.kind in fail_on for task in self.tasks)


def judge(evidence: Sequence[Evidence], alpha: float = 0.05) -> Verdict:
    """Judge every task, Holm's correction over those that can be judged at all, and draw the overall verdict.

    Overall: worse if any task is; otherwise not established, then inconclusive, if any task is; better if some task is
    and the rest are equivalent; equivalent only if every task is. ValueError without tasks.
    """
    if not evidence:
        raise ValueError("judge: want at least one task")
    barred = [_barred(item) for item in evidence]
    tested = [
        (i, item.difference.p) for i, item in enumerate(evidence) if barred[i] is None and item.difference.p is not None
    ]
    adjusted = dict(zip([i for i, _ in tested], holm([p for _, p in tested]), strict=True))
    tasks = tuple(
        _judge_task(item, barred[i], adjusted.get(i), alpha, max(1, len(tested))) for i, item in enumerate(evidence)
    )
    order: tuple[Kind, ...] = ("worse", "not established", "inconclusive", "better", "equivalent")
    kind = min((task.kind for task in tasks), key=order.index)
    named = [task.task for task in tasks if task.kind == kind]
    count = "every task" if len(named) == len(tasks) else f"{len(named)} of {len(tasks)} tasks"
    return Verdict(kind, f"{kind} in {count}: {', '.join(named)}", tasks)


def _judge_task(item: Evidence, barred: str | None, p: float | None, alpha: float, tests: int) -> TaskVerdict:
    difference, metric = item.difference, item.metric
    tost = equivalence(difference, metric.margin, alpha)
    significant = p is not None and p < alpha
    items = None
    unseen = unseen_control(item, alpha)
    harmful = _harm(metric, difference) > 0
    kind: Kind
    if barred is not None:
        kind, reason = "not established", barred
    elif difference.se is None:
        kind, items = "inconclusive", math.ceil(difference.n * MIN_UNITS / max(1, difference.units))
        reason = f"{difference.method}; at least {MIN_UNITS} are needed, about {items:,} items"
    elif significant and harmful and not tost.equivalent:
        kind, reason = "worse", f"{_shown(metric, difference)}, p = {p:.2g} after Holm's correction"
    elif unseen is not None:
        kind, reason = "not established", unseen
    elif tost.equivalent:
        kind, reason = (
            "equivalent",
            f"{_shown(metric, tost.interval)} lies within ±{metric.margin * metric.scale:g} {metric.unit}",
        )
        if significant:
            reason += f"; a significant {'loss' if harmful else 'gain'} (p = {p:.2g}), but inside the margin"
        reason += _sensitivity(item, alpha)
    elif significant:
        kind, reason = "better", f"{_shown(metric, difference)}, p = {p:.2g} after Holm's correction"
    else:
        items = items_to_settle(difference, metric.margin, alpha, tests=tests)
        kind, reason = "inconclusive", f"{_shown(metric, difference)}; about {items:,} items would settle it"
    excess = None if item.floor is None else difference.value - item.floor.value
    return TaskVerdict(item.task, kind, reason, item, tost, p, significant, items, excess)


def _barred(item: Evidence) -> str | None:
    """Why the task cannot be judged whatever the difference is; None if it can."""
    if not item.hashes_match:
        return "the arms did not answer the same requests: their prompt hashes differ"
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
    """The controls that prove that damage of the margin's size can be seen in this task.

    Such a control's loss is significant (Bonferroni's correction: one of several would be at `alpha` by chance), at
    least the margin, and greater than the candidate's.
    """
    least, candidate = item.metric.margin, _harm(item.metric, item.difference)
    return [
        name
        for name, control in item.controls.items()
        if control.p is not None and control.p < alpha / len(item.controls)
        if (loss := _harm(item.metric, control)) >= least and loss > candidate
    ]


def unseen_control(item: Evidence, alpha: float = 0.05) -> str | None:
    """Why no control proves that the margin can be seen in this task; None if one does."""
    if not item.controls:
        return "no positive control ran: nothing shows that this task can see damage"
    if seen_controls(item, alpha):
        return None
    metric = item.metric
    best = max(item.controls, key=lambda name: _harm(metric, item.controls[name]))
    control = item.controls[best]
    shown = metric.show(control.value)
    if control.p is None or control.p >= alpha / len(item.controls) or _harm(metric, control) < metric.margin:
        return f"the damaged arm {best} was not seen: {shown}, less than the margin or not significant"
    return f"the damaged arm {best} ({shown}) is not beyond the candidate ({metric.show(item.difference.value)})"


def _sensitivity(item: Evidence, alpha: float) -> str:
    """Which damage the task saw and which it did not, where it did not see all: how sharp an instrument it is."""
    seen = seen_controls(item, alpha)
    unseen = [name for name in item.controls if name not in seen]
    return f"; damage seen: {', '.join(seen)}; not seen: {', '.join(unseen)}" if unseen else ""


def _harm(metric: Metric, estimate: Estimate) -> float:
    return -estimate.value if metric.higher_is_better else estimate.value


def _shown(metric: Metric, estimate: Estimate) -> str:
    low, high = ((estimate.low or 0.0) * metric.scale, (estimate.high or 0.0) * metric.scale)
    return f"{metric.show(estimate.value)} ({100 * estimate.level:g} % interval {low:+.3g} … {high:+.3g})"
