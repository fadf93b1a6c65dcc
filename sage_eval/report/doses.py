"""Outlier stress in a report: the dose-response of each judged task, and that of the definition alone."""

from typing import TYPE_CHECKING

from sage_eval.report.tables import Table
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.verdicts import TaskVerdict

if TYPE_CHECKING:
    from sage_eval.calibrate.stress import Doses

ABOUT = (
    "Each arm is the candidate's backend on a checkpoint that computes the same function bit for bit (a pair of K's "
    "channels in each layer and head scaled by the dose, Q's by its inverse) and is harder to quantise; the difference "
    "is to the baseline on the original. The detection limit is the smallest dose that is seen with all larger ones. "
    "A dose that is seen shows, as any control, that the task can see damage."
)


def table(comparison: Comparison) -> Table | None:
    """A row a judged task, a column a dose; None where no arm was under stress."""
    tasks = [task for task in comparison.verdict.tasks if task.doses] if comparison.verdict else []
    if not tasks:
        return None
    doses = sorted({dose.dose for task in tasks for dose in task.doses})
    header = ("task", "metric", *(f"× {dose}" for dose in doses), "detection limit")
    return Table("Outlier stress", header, [_row(task, doses) for task in tasks], [ABOUT])


def _row(task: TaskVerdict, doses: list[int]) -> tuple[str, ...]:
    found = {dose.dose: dose for dose in task.doses}
    cells = []
    for dose in doses:
        if (entry := found.get(dose)) is None:
            cells.append("–")
            continue
        se = entry.difference.se
        value = f"{task.scale * entry.difference.value:+.3g}" + ("" if se is None else f" ± {task.scale * se:.2g}")
        text = f"{value} {task.unit}".rstrip()
        cells.append(f"**{text}**, seen" if entry.seen else text)
    silent = "none seen" if any(dose.difference.se is not None for dose in task.doses) else "too few items"
    limit = silent if task.detection_limit is None else f"× {task.detection_limit}"
    return (task.task, str(task.metric), *cells, limit)


def definition(doses: "Doses") -> str:
    """The definition's errors by scale as a Markdown table, for `sage-eval stress`."""
    lines = [
        "| scale | error, K smoothed: mean | max | × of scale 1 | error, not smoothed: mean | max |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dose in doses.doses:
        mean, worst = (sum(dose.smoothed) / len(dose.smoothed), max(dose.smoothed))
        rough = f"{sum(dose.unsmoothed) / len(dose.unsmoothed):.4f} | {max(dose.unsmoothed):.4f}"
        mark = " (reference)" if dose.scale == doses.reference_scale else ""
        lines.append(f"| {dose.scale:g}{mark} | {mean:.4f} | {worst:.4f} | {doses.rise(dose.scale):.1f} | {rough} |")
    flat = [value for layer in doses.dominance for value in layer]
    return "\n".join(
        (
            *lines,
            "",
            "Relative L2 error of SageAttention (int8-fp16) against exact attention on the same Q, K and V, mean and",
            f"max over the layers. Text: {doses.text}.",
            f"R of the chosen pair over the largest of the others: {min(flat):.2f} to {max(flat):.2f}; the reference",
            f"is the smallest power of two that makes it 16 everywhere: {doses.reference_scale:g}.",
        )
    )
