"""The verdict at the head of a report: one line, and the table it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sage_eval.config import flag_name
from sage_eval.render.table import MISSING, Table
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.pooled import Pooled
from sage_eval.statistics.verdict import in_margins
from sage_eval.store.comparison import Comparison, Floor, TaskVerdict
from sage_eval.store.looks import Looks

HEADER = (
    "task", "verdict", "metric", "difference", "{level:g} % interval", "margin",
    "floor", "excess over floor", "damage seen",
)  # fmt: skip
WIDE = ("metric", "excess over floor")
LOSSES = ("worse", "loss found")
ADVICE = {
    "floor": "No floor arm ran, so nothing shows what two equal arms differ by: add `--arms repeat,exact`.",
    "control": "No control ran, so nothing shows that damage would have been seen, and nothing can be called "
    "equivalent: add `--arms control`.",
}
UNCALIBRATED = (
    "No calibration arm ran: any verdict but *worse* and *loss found* needs a damaged control that is seen, and arms "
    "that should be equal to read it against. Repeat the command with `--calibrate` (arms repeat, exact, control); "
    "finished arms are kept."
)


def headline(comparison: Comparison) -> list[str]:
    """The overall verdict in a line, and a line for each kind of arm that it lacks; nothing for older runs."""
    verdict = comparison.verdict
    if verdict is None:
        return []
    if len(verdict.missing) < 2:
        return [
            f"**Verdict: {verdict.reason}.**",
            *_pooled(verdict.pooled),
            *(ADVICE[role] for role in verdict.missing),
        ]
    if verdict.verdict not in LOSSES:
        return [*_pooled(verdict.pooled), UNCALIBRATED]
    found = "; ".join(f"{verdict.label(task)} {task.reason}" for task in verdict.tasks if task.verdict in LOSSES)
    return [f"**Verdict: {verdict.reason}** ({found}).", UNCALIBRATED]


def by_candidate(table: Table, tasks: Sequence[TaskVerdict]) -> Table:
    """`table`, which has a row for each of `tasks`, with the candidates' names where they make a difference."""
    named = zip((task.task for task in tasks), map(tuple, table.rows), strict=True)
    distinct = list(dict.fromkeys(named))
    if len(distinct) == len({name for name, _ in distinct}):
        return replace(table, rows=[row for _, row in distinct])
    rows = [(row[0], task.candidate, *row[1:]) for task, row in zip(tasks, table.rows, strict=True)]
    header = (table.header[0], "candidate", *table.header[1:])
    return replace(table, header=header, rows=rows, names=table.names + 1)


def _pooled(found: Mapping[str, Pooled]) -> list[str]:
    """One answer for all tasks, where there are several."""
    lines = []
    for name, answer in found.items():
        if len(answer.by_task) > 1:
            who = f", {name}" if len(found) > 1 else ""
            lines.append(
                f"All tasks pooled ({', '.join(answer.by_task)}{who}): the arms "
                f"{'differ' if answer.p < 0.05 else 'are not seen to differ'}, "
                f"{'a loss' if answer.z > 0 else 'a gain'} of {abs(answer.z):.2g} standard deviations, "
                f"{p_value(answer.p)} (paired permutation of whole documents, tasks weighted alike, each text once)."
            )
    return lines


def table(comparison: Comparison) -> Table | None:
    """One row per judged task; None where no calibration arm ran, as there every row would say so."""
    verdict = comparison.verdict
    if verdict is None or len(verdict.missing) == 2:
        return None
    header = tuple(text.format(level=100 * (1 - 2 * verdict.alpha)) for text in HEADER)
    notes = [
        f"{verdict.label(task)}: {task.reason}"
        for task in verdict.tasks
        if task.verdict != "equivalent" or task.significant or "not seen" in task.reason or task.sharpness
    ]
    if verdict.failed:
        notes.append(f"this fails the run: --fail-on {','.join(map(flag_name, verdict.fail_on))}")
    rows = [_row(task) for task in verdict.tasks]
    return by_candidate(Table("Verdict by task", header, rows, notes, names=3, wide=WIDE), verdict.tasks)


def looks(record: Looks | None) -> list[str | Table]:
    """What was looked at when, and why the run stopped; nothing where all items were asked at once."""
    if record is None or not record.looks:
        return []
    last = record.looks[-1]
    asked, whole = sum(last.items.values()), sum(record.items.values())
    reasons = {"settled": "every task was settled", "all items": "no items were left"}
    why = reasons.get(record.stopped or "", "unfinished")
    line = (
        f"Stopped at look {len(record.looks)} with {asked:,} of {whole:,} items ({100 * asked / whole:.0f} %): {why}. "
        "Intervals and p-values hold over all looks, so wherever one stops (repeated confidence intervals; "
        "α is spent as O'Brien and Fleming's bounds do)."
    )
    names = dict.fromkeys(name for look in record.looks for name in look.verdicts)
    rows = [(name, *(look.verdicts.get(name, MISSING) for look in record.looks)) for name in names]
    items = ("items", *(f"{sum(look.items.values()):,}" for look in record.looks))
    header = ("task", *(f"{100 * look.share:g} %" for look in record.looks))
    return [line, Table("Verdicts by look", header, [items, *rows])]


def floors(comparison: Comparison) -> Table | None:
    """One row per judged task and arm that should equal the baseline, judged as if it were the candidate."""
    judged = comparison.verdict.tasks if comparison.verdict else []
    tasks = {task.task: task for task in reversed(judged)}  # the same for every candidate
    rows = [_floor(task, name, floor) for task in reversed(tasks.values()) for name, floor in task.floors.items()]
    if not rows:
        return None
    alarms = [f"{row[0]}: {row[1]}, which should equal the baseline, is itself {row[-1]}" for row in rows]
    notes = [line for line in alarms if line.endswith((*LOSSES, "better"))]
    header = ("task", "arm", "difference", "95 % interval", "p", "judged as the candidate is")
    notes.append(f"judged with Holm's correction over these {len(rows)}: without it, an alarm would be no surprise")
    return Table("Arms that should be equal to the baseline", header, rows, notes, names=2)


def _row(task: TaskVerdict) -> tuple[str, ...]:
    if task.interval is None or task.margin is None:
        return (task.task, task.verdict, *[MISSING] * (len(HEADER) - 2))
    floor = task.floors[task.floor] if task.floor else None
    return (
        task.task,
        task.verdict,
        str(task.metric),
        number(task, task.interval.value),
        interval(task, task.interval),
        f"±{task.scale * task.margin:g} {task.unit}".rstrip(),
        MISSING if floor is None else f"{number(task, floor.difference.value, exact=floor.identical)} ({task.floor})",
        MISSING if floor is None else f"{number(task, floor.excess.value)} {interval(task, floor.excess)}",
        _seen(task),
    )


def _seen(task: TaskVerdict) -> str:
    """The damaged arms that the task saw."""
    arms = task.controls | {f"× {dose.dose}": dose for dose in task.doses}
    if not arms:
        return MISSING
    if all(arm.difference.se is None for arm in arms.values()):
        return "too few items"
    seen = ", ".join(name for name, arm in arms.items() if arm.seen)
    sharp = "" if task.sharpness is None else f" (from {in_margins(task.sharpness)})"
    return seen + sharp if seen else f"**none of {len(arms)}**"


def _floor(task: TaskVerdict, name: str, floor: Floor) -> tuple[str, ...]:
    shown = number(task, floor.difference.value, exact=floor.identical)
    return (task.task, name, shown, interval(task, floor.difference), p_value(floor.difference.p), floor.verdict)


def p_value(p: float | None) -> str:
    """`p < 0.001` or two digits."""
    return MISSING if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def number(task: TaskVerdict, value: float, *, exact: bool = False, digits: int = 3) -> str:
    """`value` signed, in the task's unit."""
    return "exactly 0" if exact else f"{task.scale * value:+.{digits}g} {task.unit}".rstrip()


def interval(task: TaskVerdict, estimate: Estimate, digits: int = 3) -> str:
    """In brackets, or why there is none."""
    if estimate.low is None or estimate.high is None:
        return estimate.method.partition(" (")[0]
    return f"[{task.scale * estimate.low:+.{digits}g}, {task.scale * estimate.high:+.{digits}g}]"
