"""Finished answers, compared without an engine: files of other tools (`sage-eval compare --results A B`), or one arm of
two runs (`sage-eval diff`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sage_eval.compare.pairing import Answered, pair_tasks
from sage_eval.compare.pairs import compare_arms
from sage_eval.compare.rows import by_metric, compare_items
from sage_eval.compare.verdicts import decide
from sage_eval.errors import UsageError
from sage_eval.statistics.verdict import METRICS
from sage_eval.store.comparison import ArmPair, ArmSummary, Comparison, MetricKind, TaskComparison
from sage_eval.store.folder import Arm, Run
from sage_eval.store.other_tools import Answers, read

_KINDS: Mapping[str, MetricKind] = {
    "word_perplexity": "log-perplexity",
    "byte_perplexity": "log-perplexity",
    "bits_per_byte": "bits",
}


def compare_results(
    baseline: Path, candidate: Path, margins: Mapping[str, float], fail_on: Sequence[str] = ()
) -> Comparison:
    """The paired statistics of two files or folders, baseline first.

    A score counts as the average of its items. `DataError` where the files cannot be read or share no task,
    `UsageError` where a margin names nothing that they have.
    """
    sides = (read(baseline), read(candidate))
    if len({side.name for side in sides}) == 1:
        raise UsageError(f"--results {baseline} {candidate}: give two files or folders")
    arms = {s.name: ArmSummary(backend=s.name, engine={}, seconds={}, items=len(s.samples)) for s in sides}
    return _judged([_pair(*sides)], [], arms, "results", margins, fail_on)


def compare_runs(first: Run, second: Run, arm: str, margins: Mapping[str, float], fail_on: Sequence[str]) -> Comparison:
    """The paired statistics of `arm` in two runs, the first's as the baseline.

    What the first run damaged on purpose shows what would have been seen. The pair of both baselines comes last, as a
    floor that no verdict rests on: where the arm alone was changed, they should be equal. `DataError` where the arms
    were not asked alike, `UsageError` where a run has no such arm or a margin names nothing that they have.
    """
    if first.folder.resolve() == second.folder.resolve():
        raise UsageError(f"{first.folder} and {second.folder} are one folder: give two runs")
    sides = _named(first, second, arm)
    shown: list[Arm] = [*sides]
    pairs, floors = [compare_arms(*sides)], []
    for other in first.arms.values():
        if other.record.spec.role in ("control", "stress") and other.name != arm:
            shown.append(other)
            pairs.append(compare_arms(sides[0], other))
    if arm != "baseline" and "baseline" in second.arms:
        bases = _named(first, second, "baseline")
        shown += bases
        floors = [compare_arms(*bases).model_copy(update={"role": "floor"})]
    arms = {
        found.name: ArmSummary(backend=found.name, engine=record.engine, seconds=record.seconds, items=record.items)
        for found in shown
        for record in [found.record]
    }
    return _judged(pairs, floors, arms, first.manifest.mode, margins, fail_on)


def _named(first: Run, second: Run, arm: str) -> tuple[Arm, Arm]:
    """That arm of both runs, called by the run's folder and with a candidate's role."""
    alike = first.folder.resolve().name == second.folder.resolve().name
    found = []
    for run in (first, second):
        if arm not in run.arms:
            raise UsageError(f"{run.folder} has no arm {arm}; it has {', '.join(run.arms)}")
        name = f"{run.folder if alike else run.folder.resolve().name}/{arm}"
        record = run.arms[arm].record
        spec = record.spec.model_copy(update={"name": name, "role": "candidate"})
        found.append(replace(run.arms[arm], record=record.model_copy(update={"spec": spec})))
    return found[0], found[1]


def _judged(
    pairs: list[ArmPair],
    floors: list[ArmPair],
    arms: dict[str, ArmSummary],
    mode: str,
    margins: Mapping[str, float],
    fail_on: Sequence[str],
) -> Comparison:
    """The comparison of `pairs`, judged by `margins`, with `floors` beside it."""
    rows = [row for pair in pairs for row in pair.tasks]
    known = {name for row in rows for name in (row.task, row.metric, row.metric.partition(",")[0])} | set(METRICS)
    if unknown := [name for name in margins if name not in known]:
        valid = ", ".join(sorted(known))
        raise UsageError(f"--margin {unknown[0]}: neither a task nor a metric of these files ({valid})")
    verdict = decide(pairs, {}, margins, fail_on, {})
    return Comparison(schema_version=1, mode=mode, arms=arms, pairs=[*pairs, *floors], gates=[], verdict=verdict)


def _pair(baseline: Answers, candidate: Answers) -> ArmPair:
    sides: tuple[Answered, Answered] = (baseline, candidate)
    paired, refused = pair_tasks(*sides)
    rows: list[TaskComparison] = []
    for task, items in paired.items():
        for metric, chosen in by_metric(items).items():
            name = metric.partition(",")[0]
            both = [pair for pair in chosen if all(name in sample.metrics for sample in pair)]
            kind = _KINDS.get(name, "mean")
            if not both or any(isinstance(s.metrics[name], tuple) == (kind == "mean") for pair in both for s in pair):
                continue
            row = compare_items(task, metric, both, group=False, parent=None, kind=kind)
            rows.append(row.model_copy(update={"higher_is_better": kind == "mean"}))
    return ArmPair(
        baseline=baseline.name,
        candidate=candidate.name,
        tasks=rows,
        skipped=[],
        incomparable=[task for task in paired if task not in {row.task for row in rows}],
        unpaired=refused,
    )
