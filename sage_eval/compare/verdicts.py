"""The verdict of a comparison: which metric of each task is judged, by which margin, against which floors and controls.

The rules are `sage_eval.statistics.verdict`'s; here its evidence is put together from the arms of a run. One metric of
each task is judged: several rescalings of one likelihood would be several tests of the same thing. A group that has a
score is judged instead of its members.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from sage_eval.compare.divergence import name_of
from sage_eval.compare.doses import ARM, detection_limit, response, strongest_first
from sage_eval.compare.looks import with_looks
from sage_eval.compare.pairs import Pairs, score
from sage_eval.compare.pooled import pooled_answer
from sage_eval.engine.options import SAGE
from sage_eval.statistics.equivalence import equivalence
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.verdict import METRICS, Evidence, Judged, Kind, Metric, judge, seen_controls
from sage_eval.store.comparison import (
    ArmPair,
    ArmSummary,
    Comparison,
    Control,
    Floor,
    Gate,
    TaskComparison,
    TaskVerdict,
    Verdict,
)
from sage_eval.store.folder import SCHEMA_VERSION, Arm

ALPHA = 0.05
_PERPLEXITIES = ("token_perplexity", "word_perplexity")
"""Judged before other forms of the same likelihood, such as bits per byte."""


def verdicts(
    found: Pairs,
    minimum: Mapping[str, float],
    margins: Mapping[str, float] | None = None,
    fail_on: Sequence[str] = (),
) -> Comparison:
    """Judge the candidates' differences in the light of the other arms, and hold them against the absolute gates."""
    found = with_looks(found)
    arms, mode = found.run.arms, found.run.manifest.mode
    coverage = {name: _prefill_coverage(mode, arms[name]) for name in found.above}
    verdict = decide(found.arms, found.above, margins or {}, fail_on, coverage)
    answers = {
        pair.candidate: pooled_answer(found.run, pair, judged_rows(pair, margins or {})) for pair in found.candidates
    }
    together = {name: answer for name, answer in answers.items() if answer}
    return Comparison(
        schema_version=SCHEMA_VERSION,
        mode=mode,
        arms={
            name: ArmSummary(
                backend=arm.backend, engine=arm.record.engine, seconds=arm.record.seconds, items=arm.record.items
            )
            for name, arm in arms.items()
        },
        pairs=[_published(pair) for pair in found.arms],
        verdict=verdict.model_copy(update={"pooled": together}),
        gates=[_gate(pair, task, value) for task, value in minimum.items() for pair in found.candidates],
    )


def _published(pair: ArmPair) -> ArmPair:
    """Of calibration arms only what was asked for by name: nine arms' 57 subjects would be a megabyte."""
    if pair.role == "candidate":
        return pair
    return pair.model_copy(update={"tasks": [row for row in pair.tasks if row.group or row.parent is None]})


def _gate(candidate: ArmPair, task: str, minimum: float) -> Gate:
    """A gate over nothing has no value, and fails."""
    row = next((row for row in candidate.tasks if row.task == task), None)
    if row is None:
        return Gate(task=task, candidate=candidate.candidate, metric=None, minimum=minimum, value=None, passed=False)
    value = score(row, "candidate")
    passed = value >= minimum if row.higher_is_better else value <= minimum
    return Gate(
        task=task, candidate=candidate.candidate, metric=row.metric, minimum=minimum, value=value, passed=passed
    )


def decide(
    pairs: Sequence[ArmPair],
    above: Mapping[str, Mapping[str, ArmPair]],
    margins: Mapping[str, float],
    fail_on: Sequence[str],
    coverage: Mapping[str, tuple[float | None, float | None]],
) -> Verdict:
    """Judge the candidates among `pairs`, Holm's correction over all their tasks.

    By candidate: `above` are the differences to each floor arm, `coverage` is what was reached and what is wanted.
    """
    candidates = [pair for pair in pairs if pair.role == "candidate"]
    by_candidate = {pair.candidate: judged_rows(pair, margins) for pair in candidates}
    rows = [(name, row) for name, judgeable in by_candidate.items() for row in judgeable]

    def label(task: str, name: str) -> str:
        return task if len(candidates) == 1 else f"{task} ({name})"

    found = {
        "floor": [pair for pair in pairs if pair.role == "floor"],
        "control": [pair for pair in pairs if pair.role in ("control", "stress")],
    }
    evidence = []
    for name, row in rows:
        reached, wanted = coverage.get(name, (None, None))
        item = _evidence(row, row.difference, found["control"], margins)
        no_gain = _no_gain(row, by_candidate[name], margins)
        evidence.append(
            replace(item, task=label(row.task, name), coverage=reached, required_coverage=wanted, no_gain=no_gain)
        )
    judged = judge(evidence, ALPHA) if evidence else None
    # The floor arms are judged as if they were the candidate: an alarm among arms that should be equal must be seen.
    # Holm's correction is over all of them: one alarm among three arms would be no surprise.
    distinct = {row.task: row for _, row in reversed(rows)}.values()
    equal = [(row, pair.candidate, same) for pair in found["floor"] for row in distinct if (same := _same(row, pair))]
    shared = [_evidence(row, same.difference, found["control"], margins) for row, _, same in equal]
    equals = {
        (row.task, arm): task.kind
        for (row, arm, _), task in zip(equal, judge(shared, ALPHA).tasks if shared else (), strict=True)
    }
    tasks = [
        _record(name, row, verdict, _floors(row, found["floor"], equals, above.get(name, {})))
        for (name, row), verdict in zip(rows, judged.tasks if judged else (), strict=True)
    ]
    order = {task.task: place for place, task in reversed([*enumerate(tasks)])}
    tasks.sort(key=lambda task: order[task.task])
    silent = [
        TaskVerdict(candidate=pair.candidate, task=task, metric=None, verdict="not established", reason=why)
        for pair in candidates
        for task, why in _unjudged(pair, by_candidate[pair.candidate]).items()
    ]
    kind, reason = (judged.kind, judged.reason) if judged else ("not established", "no task has a metric to judge")
    if judged and silent and kind not in ("worse", "loss found"):
        lacking = [label(task.task, task.candidate) for task in (*tasks, *silent) if task.verdict == "not established"]
        kind = "not established"
        reason = f"{kind} in {len(lacking)} of {len(tasks) + len(silent)} tasks: {', '.join(lacking)}"
    missing: list[Literal["floor", "control"]] = [role for role in ("floor", "control") if not found[role]]
    return Verdict(
        verdict=kind, reason=reason, alpha=ALPHA, tasks=[*tasks, *silent], missing=missing, fail_on=list(fail_on)
    )


def judged_rows(pair: ArmPair, margins: Mapping[str, float]) -> list[TaskComparison]:
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


def metric_of(row: TaskComparison, margins: Mapping[str, float]) -> Metric | None:
    """How `row` is judged: the margin given for its task or metric, else its kind's default; None where it has none."""
    name = row.metric.partition(",")[0]
    kind = _kind(row)
    given = next((margins[key] for key in (row.task, row.metric, name, kind) if key in margins), None)
    known = METRICS.get(kind)
    if known is None:
        return None if given is None else Metric(name, given, row.higher_is_better, "bits" * (row.kind == "bits"))
    return replace(known, margin=known.margin if given is None else given, higher_is_better=row.higher_is_better)


def _prefill_coverage(mode: str, arm: Arm) -> tuple[float | None, float | None]:
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


def _no_gain(row: TaskComparison, judged: Sequence[TaskComparison], margins: Mapping[str, float]) -> str | None:
    """Why a gain of `row` would be none: another distribution is no better one, whatever its perplexity."""
    if row.kind == "kl":
        return "to diverge less than the floor is no gain"
    beside = next((other for other in judged if other.task == name_of(row.task)), None)
    metric = None if beside is None else metric_of(beside, margins)
    if beside is None or metric is None or equivalence(beside.difference, metric.margin, ALPHA).equivalent:
        return None
    return (
        f"the distributions moved: KL divergence {metric.show(beside.difference.value)}, not shown to lie within the "
        f"margin of {metric.margin:g}"
    )


def _kind(row: TaskComparison) -> str:
    if row.kind == "kl":
        return "kl_divergence"
    if row.kind != "mean":
        # A margin a word or token would be lax by the byte.
        return "log_perplexity" if row.metric in _PERPLEXITIES else row.kind
    if row.flips is None:
        return ""
    return "retrieval" if row.cells else "accuracy"


def _rank(row: TaskComparison, margins: Mapping[str, float]) -> int:
    """Smaller is judged first: what a margin names, then what has a default."""
    if row.metric in margins or row.metric.partition(",")[0] in margins:
        return 0
    return 1 + (_PERPLEXITIES.index(row.metric) if row.metric in _PERPLEXITIES else 0)


def _same(row: TaskComparison, pair: ArmPair) -> TaskComparison | None:
    """That task and metric in another arm; None where that arm was asked something else."""
    return next((other for other in pair.tasks if (other.task, other.metric) == (row.task, row.metric)), None)


def _unjudged(pair: ArmPair, rows: Sequence[TaskComparison]) -> dict[str, str]:
    """Tasks that were run and have no verdict, and why: they must not vanish behind an overall "equivalent"."""
    present = {row.task for row in pair.tasks}
    judged = {row.task for row in rows}
    lacking = {
        row.task: f"no default margin for {row.metric}: set --margin {row.task}=VALUE"
        for row in pair.tasks
        if row.parent not in present and row.parent not in pair.unpaired and row.task not in judged
    }
    return pair.unpaired | lacking | dict.fromkeys(pair.incomparable, "none of its metrics can be compared")


def _evidence(
    row: TaskComparison, difference: Estimate, controls: Sequence[ArmPair], margins: Mapping[str, float]
) -> Evidence:
    metric = metric_of(row, margins)
    if metric is None:
        raise ValueError(f"{row.task} {row.metric} has no margin")
    damaged = {pair.candidate: same.difference for pair in controls if (same := _same(row, pair))}
    return Evidence(
        row.task,
        metric,
        difference,
        controls=damaged,
        doses=strongest_first(damaged),
        baseline=row.baseline,
        chance=max((guess for guess in (row.chance, row.constant) if guess is not None), default=None),
    )


def _floors(
    row: TaskComparison, pairs: Sequence[ArmPair], equals: Mapping[tuple[str, str], Kind], above: Mapping[str, ArmPair]
) -> dict[str, Floor]:
    floors = {}
    for pair in pairs:
        same, excess = _same(row, pair), _same(row, above[pair.candidate])
        if same and excess:
            floors[pair.candidate] = Floor(
                difference=same.difference,
                identical=same.identical,
                excess=excess.difference,
                verdict=equals[row.task, pair.candidate],
            )
    return floors


def _record(candidate: str, row: TaskComparison, judged: Judged, floors: dict[str, Floor]) -> TaskVerdict:
    item = judged.evidence
    seen, doses = seen_controls(item), response(item)
    return TaskVerdict(
        candidate=candidate,
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
        p_beyond=judged.p_beyond,
        sharpness=judged.sharpness,
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
