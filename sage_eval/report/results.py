"""Finished answers compared without an engine, and two runs of the same: tables for a terminal or a pipe."""

from collections.abc import Sequence

from sage_eval.compare.reproduce import Number
from sage_eval.render.sections import Part, Section
from sage_eval.render.table import MISSING, Table
from sage_eval.report import scores
from sage_eval.report.verdict import LOSSES, p_value
from sage_eval.report.verdict import table as by_task
from sage_eval.statistics.estimate import Estimate
from sage_eval.store.comparison import ArmPair, Comparison, TaskComparison, TaskVerdict

NO_CONTROL = (
    "No arm damaged on purpose is among the files, so nothing shows that a loss would have been seen: what lies within "
    "the margin is not called equivalent. `sage-eval compare MODEL --calibrate` runs such arms."
)


def sections(comparison: Comparison) -> list[Section]:
    """What was found task by task, and the scores."""
    verdict = comparison.verdict
    tasks = verdict.tasks if verdict else []
    judged = by_task(comparison)
    if judged is None or (verdict and "control" in verdict.missing):
        header = ("task", "metric", "difference", "90 % interval", "margin", "found", "p of no difference")
        notes = [f"{task.task}: {task.reason}" for task in tasks if task.interval is None or task.verdict in LOSSES]
        judged = Table("Paired differences", header, [_row(task) for task in tasks], [*notes, NO_CONTROL], names=2)
    found = [pair for pair in comparison.pairs if pair.role == "candidate"]
    parts: list[Part] = [judged, _changed(found[0]), scores.scores(comparison, found, members=False)]
    for pair in comparison.pairs:
        if pair.role == "floor":
            parts += ["The baselines of both, which should be equal where the arm alone was changed:", _changed(pair)]
    return [Section("verdict", "", parts)]


def _changed(pair: ArmPair) -> str:
    """A line for each task: whether anything is different at all."""
    rows = {row.task: row for row in reversed(pair.tasks) if row.parent is None}
    return "\n".join(f"- {name}: {_says(row)}" for name, row in reversed(rows.items()))


def _says(row: TaskComparison) -> str:
    if row.identical and not row.changed:
        return f"all {row.n:,} items are the same in both"
    many = f"{row.changed:,} of {row.n:,} answers differ" if row.changed else "items differ"
    return f"{many}; {row.metric} by {row.difference.value:+.3g}"


def differing(rows: Sequence[tuple[str, str, str]], names: tuple[str, str]) -> Table:
    """What may make the numbers of two runs differ."""
    notes = [] if rows else ["nothing: versions, machine, model and data are the same"]
    return Table("What differs", ("", *names), rows, notes, names=3)


def agreement(numbers: Sequence[Number]) -> Table:
    """The numbers of two runs, one row each."""
    header = ("task", "metric", "of", "then", "now", "agrees")
    rows = [
        (n.task, n.metric, n.of, _shown(n.then), _shown(n.now), "yes" if n.agrees else "**no**") for n in numbers
    ]  # fmt: skip
    agreeing = sum(number.agrees for number in numbers)
    how = "their 95 % intervals meet, or, without one, they are equal to a thousandth"
    note = f"{agreeing} of {len(rows)} numbers agree: {how}"
    return Table("Then and now", header, rows, [note], names=3)


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return MISSING
    interval = "" if estimate.low is None else f" [{estimate.low:.5g}, {estimate.high:.5g}]"
    return f"{estimate.value:.5g}{interval}"


def _row(task: TaskVerdict) -> tuple[str, ...]:
    if task.interval is None or task.margin is None:
        return (task.task, *[MISSING] * 4, task.verdict, MISSING)
    low, high = task.interval.low, task.interval.high
    shown = MISSING if low is None or high is None else f"[{task.scale * low:+.3g}, {task.scale * high:+.3g}]"
    within = task.p_equivalence is not None and task.p_equivalence < 0.05
    losing = task.verdict in (*LOSSES, "better")
    found = task.verdict if losing else "within the margin" if within else "inconclusive"
    difference = f"{task.scale * task.interval.value:+.3g} {task.unit}".rstrip()
    margin = f"±{task.scale * task.margin:g} {task.unit}".rstrip()
    return (task.task, str(task.metric), difference, shown, margin, found, p_value(task.p))
