"""The arms damaged on purpose in a report: what each judged task saw of them; and the doses of the definition alone."""

from typing import TYPE_CHECKING

from sage_eval.report.tables import Table
from sage_eval.report.verdict import p_value
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.doses import Dose
from sage_eval.runs.verdicts import Control, TaskVerdict

if TYPE_CHECKING:
    from sage_eval.calibrate.stress import Doses

SEEN = (
    "The candidate, damaged on purpose, against the baseline; in brackets p of no difference. Bold: seen, that is "
    "significant after Bonferroni's correction over these arms, at least the margin, and beyond the candidate. A task "
    "that sees none of them can show no loss; one that sees only the coarsest is a blunt instrument."
)
STRESS = (
    "×: outlier stress. Each such arm runs on a checkpoint that computes the same function bit for bit (a pair of K's "
    "channels in each layer and head scaled by the dose, Q's by its inverse) and is harder to quantise. The detection "
    "limit is the smallest dose that is seen with all larger ones."
)


def table(comparison: Comparison) -> Table | None:
    """A row a judged task, a column a damaged arm; None where no such arm ran."""
    tasks = [task for task in comparison.verdict.tasks if task.doses or task.controls] if comparison.verdict else []
    if not tasks:
        return None
    controls = list(dict.fromkeys(name for task in tasks for name in task.controls))
    doses = sorted({dose.dose for task in tasks for dose in task.doses})
    header = ("task", "metric", *controls, *(f"× {dose}" for dose in doses), *(["detection limit"] if doses else []))
    rows = [_row(task, controls, doses) for task in tasks]
    return Table("Damaged arms: what the tasks can see", header, rows, [SEEN, *([STRESS] if doses else [])], names=2)


def _row(task: TaskVerdict, controls: list[str], doses: list[int]) -> tuple[str, ...]:
    found = {dose.dose: dose for dose in task.doses}
    cells = [*(_cell(task, task.controls.get(name)) for name in controls), *(_cell(task, found.get(d)) for d in doses)]
    if doses:
        silent = "none seen" if any(dose.difference.se is not None for dose in task.doses) else "too few items"
        cells.append(silent if task.detection_limit is None else f"× {task.detection_limit}")
    return (task.task, str(task.metric), *cells)


def _cell(task: TaskVerdict, arm: Control | Dose | None) -> str:
    if arm is None:
        return "–"
    difference = arm.difference
    error = "" if difference.se is None else f" ± {task.scale * difference.se:.2g}"
    value = f"{task.scale * difference.value:+.3g}{error} {task.unit}".rstrip()
    chance = "" if difference.p is None else f" ({p_value(difference.p)})"
    return f"**{value}**{chance}" if arm.seen else f"{value}{chance}"


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
