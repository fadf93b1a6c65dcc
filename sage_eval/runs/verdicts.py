"""The verdict of a comparison: which metric of each task is judged, by which margin, against which floors and controls.

The rules are `sage_eval.statistics.verdict`'s; here its evidence is put together from the arms of a run. One metric a
task is judged: several rescalings of one likelihood would be several tests of the same thing. A group that has a score
is judged instead of its members.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.errors import UsageError
from sage_eval.runs.calibration import SAGE
from sage_eval.runs.doses import ARM, Dose, detection_limit, response
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.verdict import METRICS, Evidence, Kind, Metric, judge, seen_controls
from sage_eval.statistics.verdict import TaskVerdict as Judged
from sage_eval.statistics.verdict import Verdict as JudgedAll

if TYPE_CHECKING:
    from sage_eval.runs.comparison import ArmPair, TaskComparison
    from sage_eval.runs.folder import Arm

ALPHA = 0.05
_PERPLEXITIES = ("token_perplexity", "word_perplexity")
"""Judged before other forms of the same likelihood, such as bits per byte."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Floor(_Record):
    """Floor arm − baseline; `identical`: no item scored otherwise; `excess`: candidate − floor arm, paired.

    `verdict` is what the floor arm would get as a candidate: anything but `equivalent` says that the instrument, or the
    baseline's own scatter, is coarser than the margin.
    """

    difference: Estimate
    identical: bool
    excess: Estimate
    verdict: Kind


class Control(_Record):
    """Control − baseline; `seen` as `statistics.verdict.seen_controls` has it."""

    difference: Estimate
    seen: bool


class TaskVerdict(_Record):
    """One task's verdict. Estimates are in the metric's unit; `scale` makes them what `unit` says (0.01 → 1 pp).

    `interval` is the candidate's difference with the interval that was held against ±`margin` (90 % for two one-sided
    tests at 5 %); `p` is that of "no difference" after Holm's correction, `p_equivalence` that of the two one-sided
    tests; `items` would settle it; `coverage` is SageAttention's share of the prefill. All are None for a task without
    a metric that can be judged. `doses` of outlier stress, ascending, and the detection limit among them.
    """

    task: str
    metric: str | None
    verdict: Kind
    reason: str
    unit: str = ""
    scale: float = 1.0
    margin: float | None = None
    interval: Estimate | None = None
    p: float | None = None
    p_equivalence: float | None = None
    significant: bool = False
    items: int | None = None
    coverage: float | None = None
    floors: dict[str, Floor] = {}
    controls: dict[str, Control] = {}
    doses: list[Dose] = []
    detection_limit: int | None = None

    @property
    def floor(self) -> str | None:
        """The floor arm that is farthest from the baseline: what arms that should be equal can differ by."""
        return max(self.floors, key=lambda name: abs(self.floors[name].difference.value), default=None)


class Verdict(_Record):
    """The overall verdict, those it rests on, the arms it lacked, and the verdicts that fail a run."""

    verdict: Kind
    reason: str
    alpha: float
    tasks: list[TaskVerdict]
    missing: list[Literal["floor", "control"]]
    fail_on: list[str]

    @property
    def failed(self) -> bool:
        """Whether the overall verdict or that of any task is among `fail_on`."""
        return bool({self.verdict, *(task.verdict for task in self.tasks)} & set(self.fail_on))


def decide(
    pairs: "Sequence[ArmPair]",
    above: "Mapping[str, ArmPair]",
    margins: Mapping[str, float],
    fail_on: Sequence[str],
    coverage: tuple[float | None, float | None],
) -> Verdict:
    """Judge the candidate among `pairs`; `above` are its differences to each floor arm, `coverage` reached and wanted.

    `UsageError` where a margin names neither a task nor a metric of the run.
    """
    candidate = next(pair for pair in pairs if pair.role == "candidate")
    _check_margins(candidate, margins)
    rows = judged_rows(candidate, margins)
    found = {
        "floor": [pair for pair in pairs if pair.role == "floor"],
        "control": [pair for pair in pairs if pair.role in ("control", "stress")],
    }
    evidence = [_evidence(row, row.difference, found["control"], margins) for row in rows]
    covered = [replace(item, coverage=coverage[0], required_coverage=coverage[1]) for item in evidence]
    judged = judge(covered, ALPHA) if covered else None
    # The floor arms are judged as if they were the candidate: an alarm among arms that should be equal must be seen.
    equals = {
        pair.candidate: judge([_evidence(row, same.difference, found["control"], margins) for row, same in shared])
        for pair in found["floor"]
        if (shared := [(row, same) for row in rows if (same := _same(row, pair))])
    }
    tasks = [
        _record(row, verdict, _floors(row, found["floor"], equals, above))
        for row, verdict in zip(rows, judged.tasks if judged else (), strict=True)
    ]
    silent = [
        TaskVerdict(task=task, metric=None, verdict="not established", reason=why)
        for task, why in _unjudged(candidate, rows).items()
    ]
    kind, reason = (judged.kind, judged.reason) if judged else ("not established", "no task has a metric to judge")
    if judged and silent and kind != "worse":
        lacking = [task.task for task in (*tasks, *silent) if task.verdict == "not established"]
        kind = "not established"
        reason = f"{kind} in {len(lacking)} of {len(tasks) + len(silent)} tasks: {', '.join(lacking)}"
    missing: list[Literal["floor", "control"]] = [role for role in ("floor", "control") if not found[role]]
    return Verdict(
        verdict=kind, reason=reason, alpha=ALPHA, tasks=[*tasks, *silent], missing=missing, fail_on=list(fail_on)
    )


def judged_rows(pair: "ArmPair", margins: Mapping[str, float]) -> "list[TaskComparison]":
    """The row of each task or group that is judged: of its metrics that have a margin, the first of the best kind."""
    present = {row.task for row in pair.tasks}
    best: dict[str, TaskComparison] = {}
    for row in pair.tasks:
        # A group that could not be paired has its verdict, "not established"; its other members are shown only.
        if row.parent in present or row.parent in pair.unpaired or metric_of(row, margins) is None:
            continue
        if row.task not in best or _rank(row, margins) < _rank(best[row.task], margins):
            best[row.task] = row
    return list(best.values())


def metric_of(row: "TaskComparison", margins: Mapping[str, float]) -> Metric | None:
    """How `row` is judged: the margin given for its task or metric, else its kind's default; None where it has none."""
    name = row.metric.partition(",")[0]
    kind = _kind(row)
    given = next((margins[key] for key in (row.task, row.metric, name, kind) if key in margins), None)
    known = METRICS.get(kind)
    if known is None:
        return None if given is None else Metric(name, given, row.higher_is_better, "bits" * (row.kind == "bits"))
    return replace(known, margin=known.margin if given is None else given, higher_is_better=row.higher_is_better)


def prefill_coverage(mode: str, arm: "Arm") -> tuple[float | None, float | None]:
    """SageAttention's share of the candidate's prompt tokens (0…1), and what fidelity mode wants of it.

    Nothing is wanted of other backends, nor where the settings send tokens elsewhere (`min_tokens`, `exact`).
    """
    spec = arm.record.spec
    if (spec.backend or arm.backend).partition("+")[0] != SAGE:
        return None, None
    counts = arm.record.engine.get("coverage") or {}
    tokens = {name.partition("/"): n for name, n in (counts.get("tokens") or {}).items() if name.startswith("prefill")}
    total = math.fsum(tokens.values()) + counts.get("cached_tokens", 0)
    ours = math.fsum(n for (_, _, kernel), n in tokens.items() if kernel.startswith("sage"))
    reached = ours / total if total and counts.get("counted") else None
    elsewhere = int(spec.model_args.get("min_tokens") or 0) > 0 or spec.model_args.get("variant") == "exact"
    return reached, None if elsewhere or mode != "fidelity" else 1.0


def _kind(row: "TaskComparison") -> str:
    if row.kind != "mean":
        # A margin a word or token would be lax by the byte.
        return "log_perplexity" if row.metric in _PERPLEXITIES else row.kind
    if row.flips is None:
        return ""
    return "retrieval" if row.cells else "accuracy"


def _rank(row: "TaskComparison", margins: Mapping[str, float]) -> int:
    """Smaller is judged first: what a margin names, then what has a default."""
    if row.metric in margins or row.metric.partition(",")[0] in margins:
        return 0
    return 1 + (_PERPLEXITIES.index(row.metric) if row.metric in _PERPLEXITIES else 0)


def _same(row: "TaskComparison", pair: "ArmPair") -> "TaskComparison | None":
    """That task and metric in another arm; None where that arm was asked something else."""
    return next((other for other in pair.tasks if (other.task, other.metric) == (row.task, row.metric)), None)


def _check_margins(pair: "ArmPair", margins: Mapping[str, float]) -> None:
    names = {name for row in pair.tasks for name in (row.task, row.metric, row.metric.partition(",")[0])} | set(METRICS)
    for name, margin in margins.items():
        if name not in names:
            raise UsageError(
                f"--margin {name}={margin:g}: neither a task nor a metric of this run ({', '.join(sorted(names))})"
            )


def _unjudged(pair: "ArmPair", rows: "Sequence[TaskComparison]") -> dict[str, str]:
    """Tasks that were run and have no verdict, and why: they must not vanish behind an overall "equivalent"."""
    present = {row.task for row in pair.tasks}
    judged = {row.task for row in rows}
    lacking = {
        row.task: f"no default margin for {row.metric}: set --margin {row.task}=VALUE"
        for row in pair.tasks
        if row.parent not in present and row.parent not in pair.unpaired and row.task not in judged
    }
    return pair.unpaired | lacking | dict.fromkeys(pair.incomparable, "no metric that is an average over its items")


def _evidence(
    row: "TaskComparison", difference: Estimate, controls: "Sequence[ArmPair]", margins: Mapping[str, float]
) -> Evidence:
    metric = metric_of(row, margins)
    if metric is None:
        raise ValueError(f"{row.task} {row.metric} has no margin")
    return Evidence(
        row.task,
        metric,
        difference,
        controls={pair.candidate: same.difference for pair in controls if (same := _same(row, pair))},
        baseline=row.baseline,
        chance=max((guess for guess in (row.chance, row.constant) if guess is not None), default=None),
    )


def _floors(
    row: "TaskComparison", pairs: "Sequence[ArmPair]", equals: Mapping[str, JudgedAll], above: "Mapping[str, ArmPair]"
) -> dict[str, Floor]:
    floors = {}
    for pair in pairs:
        same, excess = _same(row, pair), _same(row, above[pair.candidate])
        if same and excess:
            verdict = next(found.kind for found in equals[pair.candidate].tasks if found.task == row.task)
            floors[pair.candidate] = Floor(
                difference=same.difference, identical=same.identical, excess=excess.difference, verdict=verdict
            )
    return floors


def _record(row: "TaskComparison", judged: Judged, floors: dict[str, Floor]) -> TaskVerdict:
    item = judged.evidence
    seen, doses = seen_controls(item), response(item)
    return TaskVerdict(
        task=row.task,
        metric=row.metric,
        verdict=judged.kind,
        reason=judged.reason,
        unit=item.metric.unit,
        scale=item.metric.scale,
        margin=item.metric.margin,
        interval=judged.equivalence.interval,
        p=judged.p,
        p_equivalence=judged.equivalence.p,
        significant=judged.significant,
        items=judged.items,
        coverage=item.coverage,
        floors=floors,
        controls={
            name: Control(difference=control, seen=name in seen)
            for name, control in item.controls.items()
            if not name.startswith(ARM)
        },
        doses=doses,
        detection_limit=detection_limit(doses),
    )
