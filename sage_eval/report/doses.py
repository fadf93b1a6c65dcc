"""The arms damaged on purpose in a report: what each judged task saw of them; and the doses of the definition alone."""

from typing import TYPE_CHECKING

from sage_eval.render.table import MISSING, Table, markdown
from sage_eval.report.verdict import by_candidate, p_value
from sage_eval.store.comparison import Comparison, Control, Dose, TaskVerdict

if TYPE_CHECKING:
    from sage_eval.calibrate.stress import Doses

SEEN = (
    "The candidate, damaged on purpose, against the baseline; in brackets p of no difference. Bold: seen, that is a "
    "significant loss (p < 0.05) beyond the candidate's; doses count from the strongest down to the first that is not. "
    "A task that sees none of them can show no loss; one whose smallest damage seen is above two margins is a blunt "
    "instrument."
)
STRESS = (
    "×: outlier stress. Each such arm runs on a checkpoint that computes the same function bit for bit (a pair of K's "
    "channels in each layer and head scaled by the dose, Q's by its inverse) and is harder to quantise. The detection "
    "limit is the smallest dose that is seen with all larger ones."
)


def table(comparison: Comparison) -> Table | None:
    """One row per judged task, one column per damaged arm; None where no such arm ran."""
    tasks = [task for task in comparison.verdict.tasks if task.doses or task.controls] if comparison.verdict else []
    if not tasks:
        return None
    controls = list(dict.fromkeys(name for task in tasks for name in task.controls))
    doses = sorted({dose.dose for task in tasks for dose in task.doses})
    header = ("task", "metric", *controls, *(f"× {dose}" for dose in doses), *(["detection limit"] if doses else []))
    rows = [_row(task, controls, doses) for task in tasks]
    notes = [SEEN, *([STRESS] if doses else [])]
    return by_candidate(Table("Damaged arms: what the tasks can see", header, rows, notes, names=2), tasks)


def _row(task: TaskVerdict, controls: list[str], doses: list[int]) -> tuple[str, ...]:
    found = {dose.dose: dose for dose in task.doses}
    cells = [*(_cell(task, task.controls.get(name)) for name in controls), *(_cell(task, found.get(d)) for d in doses)]
    if doses:
        silent = "none seen" if any(dose.difference.se is not None for dose in task.doses) else "too few items"
        cells.append(silent if task.detection_limit is None else f"× {task.detection_limit}")
    return (task.task, str(task.metric), *cells)


def _cell(task: TaskVerdict, arm: Control | Dose | None) -> str:
    if arm is None:
        return MISSING
    difference = arm.difference
    error = "" if difference.se is None else f" ± {task.scale * difference.se:.2g}"
    value = f"{task.scale * difference.value:+.3g}{error} {task.unit}".rstrip()
    chance = "" if difference.p is None else f" ({p_value(difference.p)})"
    return f"**{value}**{chance}" if arm.seen else f"{value}{chance}"


def definition(doses: "Doses") -> str:
    """The definition's errors by scale as a Markdown table, for `sage-eval stress`."""
    header = ("scale", "error, K smoothed: mean", "max", "× of scale 1", "error, not smoothed: mean", "max")
    rows = []
    for dose in doses.doses:
        smoothed, rough = dose.smoothed, dose.unsmoothed
        mark = " (reference)" if dose.scale == doses.reference_scale else ""
        rows.append((
            f"{dose.scale:g}{mark}", f"{sum(smoothed) / len(smoothed):.4f}", f"{max(smoothed):.4f}",
            f"{doses.rise(dose.scale):.1f}", f"{sum(rough) / len(rough):.4f}", f"{max(rough):.4f}",
        ))  # fmt: skip
    flat = [value for layer in doses.dominance for value in layer]
    return (
        markdown(Table("", header, rows))
        + "\nRelative L2 error of SageAttention (int8-fp16) against exact attention on the same Q, K and V, mean and\n"
        f"max over the layers. Text: {doses.text}.\n"
        f"R of the chosen pair over the largest of the others: {min(flat):.2f} to {max(flat):.2f}; the reference\n"
        f"is the smallest power of two that makes it 16 everywhere: {doses.reference_scale:g}."
    )
