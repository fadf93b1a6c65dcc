"""The verdict at the head of a report: one line, and the table it rests on. Shared by every renderer."""

from dataclasses import replace

from sage_eval.report.tables import Table
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.verdicts import Floor, TaskVerdict
from sage_eval.statistics.estimate import Estimate

HEADER = (
    "task", "verdict", "metric", "difference", "{level:g} % interval", "margin",
    "floor", "excess over floor", "damage seen",
)  # fmt: skip
ADVICE = {
    "floor": "No floor arm ran, so nothing shows what two equal arms differ by: add `--arms repeat,exact`.",
    "control": "No control ran, so nothing shows that damage would have been seen, and nothing can be called "
    "equivalent: add `--arms control`.",
}
UNCALIBRATED = (
    "No calibration arm ran: any verdict but *worse* needs a damaged control that is seen, and arms that should be "
    "equal to read it against. Repeat the command with `--calibrate` (arms repeat, exact, control); finished arms are "
    "kept."
)


def headline(comparison: Comparison) -> list[str]:
    """The overall verdict in a line, and a line for each kind of arm that it lacks; nothing for older runs."""
    verdict = comparison.verdict
    if verdict is None:
        return []
    if len(verdict.missing) < 2:
        return [f"**Verdict: {verdict.reason}.**", *(ADVICE[role] for role in verdict.missing)]
    if verdict.verdict != "worse":
        return [UNCALIBRATED]
    found = "; ".join(f"{task.task} {task.reason}" for task in verdict.tasks if task.verdict == "worse")
    return [f"**Verdict: {verdict.reason}** ({found}).", UNCALIBRATED]


def table(comparison: Comparison) -> Table | None:
    """A row a judged task; None where no calibration arm ran, as there every row would say so."""
    verdict = comparison.verdict
    if verdict is None or len(verdict.missing) == 2:
        return None
    header = tuple(text.format(level=100 * (1 - 2 * verdict.alpha)) for text in HEADER)
    notes = [
        f"{task.task}: {task.reason}"
        for task in verdict.tasks
        if task.verdict != "equivalent" or task.significant or "not seen" in task.reason
    ]
    if verdict.failed:
        notes.append(f"this fails the run: --fail-on {','.join(name.replace(' ', '-') for name in verdict.fail_on)}")
    return Table("Verdict by task", header, [_row(task) for task in verdict.tasks], notes, names=3)


def floors(comparison: Comparison) -> Table | None:
    """A row for each judged task and arm that should equal the baseline, judged as if it were the candidate."""
    tasks = comparison.verdict.tasks if comparison.verdict else []
    rows = [_floor(task, name, floor) for task in tasks for name, floor in task.floors.items()]
    if not rows:
        return None
    alarms = [f"{row[0]}: {row[1]}, which should equal the baseline, is itself {row[-1]}" for row in rows]
    notes = [line for line in alarms if line.endswith((" worse", " better"))]
    header = ("task", "arm", "difference", "95 % interval", "p", "judged as the candidate is")
    return Table("Arms that should be equal to the baseline", header, rows, notes, names=2)


def narrow(full: Table) -> Table:
    """The table without the columns that a terminal has no room for: `metric` and the excess over the floor."""
    kept = [index for index, name in enumerate(HEADER) if name not in ("metric", "excess over floor")]
    header, *rows = [tuple(row[index] for index in kept) for row in (full.header, *full.rows)]
    return replace(full, header=header, rows=rows, names=2)


def _row(task: TaskVerdict) -> tuple[str, ...]:
    if task.interval is None or task.margin is None:
        return (task.task, task.verdict, *["–"] * (len(HEADER) - 2))
    floor = task.floors[task.floor] if task.floor else None
    return (
        task.task,
        task.verdict,
        str(task.metric),
        _number(task, task.interval.value),
        _interval(task, task.interval),
        f"±{task.scale * task.margin:g} {task.unit}".rstrip(),
        "–" if floor is None else f"{_number(task, floor.difference.value, exact=floor.identical)} ({task.floor})",
        "–" if floor is None else f"{_number(task, floor.excess.value)} {_interval(task, floor.excess)}",
        _seen(task),
    )


def _seen(task: TaskVerdict) -> str:
    """The damaged arms that the task saw."""
    arms = task.controls | {f"× {dose.dose}": dose for dose in task.doses}
    if not arms:
        return "–"
    if all(arm.difference.se is None for arm in arms.values()):
        return "too few items"
    return ", ".join(name for name, arm in arms.items() if arm.seen) or f"**none of {len(arms)}**"


def _floor(task: TaskVerdict, name: str, floor: Floor) -> tuple[str, ...]:
    shown = _number(task, floor.difference.value, exact=floor.identical)
    return (task.task, name, shown, _interval(task, floor.difference), p_value(floor.difference.p), floor.verdict)


def p_value(p: float | None) -> str:
    """`p < 0.001` or two digits."""
    return "–" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _number(task: TaskVerdict, value: float, *, exact: bool = False) -> str:
    return "exactly 0" if exact else f"{task.scale * value:+.3g} {task.unit}".rstrip()


def _interval(task: TaskVerdict, estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.method.partition(" (")[0]
    return f"[{task.scale * estimate.low:+.3g}, {task.scale * estimate.high:+.3g}]"
