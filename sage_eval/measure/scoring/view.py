"""A scoring record for people: one table per task, one of the rates, one of the client."""

from collections.abc import Iterator, Mapping
from statistics import median

from sage_eval.measure.base import View
from sage_eval.measure.scoring import models
from sage_eval.measure.scoring.figures import drawings
from sage_eval.measure.scoring.rows import (
    RULE,
    Agreement,
    Part,
    Round,
    Task,
    agreements,
    random_weights,
    task_name,
    unequal,
)  # fmt: skip
from sage_eval.render.figures import Drawing, svgs
from sage_eval.render.table import MISSING, Table
from sage_eval.store.record import Record

STOCK = "sglang"
SCORING, WHOLE = "from the first request to the last answer", "everything, the engine's start included"
HOW = (
    "Items per second of the same tasks on the same weights. Each model runs in its own process, one after the other. "
    "`scoring` counts from the first request to the last answer; `end to end` counts everything, the engine's start "
    "included."
)
UNCOMPARED = "The scores of random weights mean nothing and are not compared."
RATE = (
    "Uncached prompt tokens per second while scoring, beside the same engine's with the same prompts, one new token "
    "and no log-probabilities. The share is the median over rounds."
)
CLIENT = (
    "The client alone, scoring short requests through an engine that answers at once. The caller holds the requests "
    "and the results; what the client needs beyond these should not grow."
)
_TASK = (
    "model", "items", "items/s scoring", f"× {STOCK}", "items/s end to end", "start s", "contexts s", "tokenise s",
    "scoring s", "score", "difference", "turned", "mean abs. difference",
)  # fmt: skip
_ROUNDS = (
    "arm", "prompts × tokens", "cached: plain / scored", "plain, tokens/s per round", "scored, tokens/s per round",
    "share",
)  # fmt: skip
_BYTES = ("requests", "MiB at rest", "MiB peak", "bytes/request held", "result", "beyond these", "µs/request")


def view(record: Record[Part], title: str) -> View:
    """What was measured, after what failed."""
    made = record.provenance
    device = made.devices[0]["name"] if made.devices else made.host.get("cpu")
    versions = ", ".join(
        f"{name} {made.versions[name]}" for name in ("sglang", "torch", "lm-eval") if name in made.versions
    )
    weights = ", random weights" if random_weights(made.model) else ""
    repeat = " and ".join(f"`{command}`" for command in made.commands)
    head = f"`{made.model['name']}`{weights} on {device}; {versions}. Repeat with {repeat}."
    parts = [head, *(f"**Failed:** {line}" for line in failures(record))]
    return View(title, [*parts, *_evaluation(record), *_rate(record), *_client(record)], svgs(_drawings(record)))


def failures(record: Record[Part]) -> list[str]:
    """What went wrong, one line each; a package that is not installed is no failure."""
    errors = [f"{name}: {arm.error}" for name, arm in record.arms.items() if arm.error]
    errors += [f"{row.arm}, {task_name(row.cell)}: {row.error}" for row in record.rows if row.error]
    found = {} if random_weights(record.provenance.model) else unequal(record.rows, record.baseline, bits(record))
    return errors + [f"{name}, {task_name(cell)}: {reason}" for (cell, name), reason in found.items()]


def bits(record: Record[Part]) -> int:
    """Of the numbers that the engines computed in."""
    return models.bits(str(record.settings.get("model_args", {}).get("dtype", "auto")))


def tasks(record: Record[Part]) -> dict[str, dict[str, Task]]:
    """Cell → model → its result, in the order of the models."""
    order = [*record.arms]
    rows = sorted((row for row in record.rows if row.task), key=lambda row: order.index(row.arm))
    cells = dict.fromkeys(row.cell for row in record.rows if row.task)
    return {cell: {row.arm: row.task for row in rows if row.cell == cell and row.task} for cell in cells}


def ratios(found: Mapping[str, Task]) -> dict[str, float]:
    """Items per second of each model against lm-eval's `sglang`."""
    return {name: task.rate / found[STOCK].rate for name, task in found.items()} if STOCK in found else {}


def _drawings(record: Record[Part]) -> Iterator[Drawing]:
    panels: dict[str, dict[str, dict[str, float]]] = {SCORING: {}, WHOLE: {}}
    start = {name: arm.start_seconds or 0.0 for name, arm in record.arms.items()}
    answered = {task_name(cell): found for cell, found in tasks(record).items() if STOCK in found}
    for task, found in answered.items():
        stock = found[STOCK].end_to_end(start[STOCK])
        whole = {name: one.end_to_end(start[name]) / stock for name, one in found.items()}
        for panel, known in ((SCORING, ratios(found)), (WHOLE, whole)):
            for name, ratio in known.items():
                panels[panel].setdefault(name, {})[task] = ratio
    return drawings(record, STOCK, panels, list(answered))


def _evaluation(record: Record[Part]) -> list[str | Table]:
    absent = [f"{name} ({arm.engine['absent']})" for name, arm in record.arms.items() if "absent" in arm.engine]
    made: list[str | Table] = []
    random = random_weights(record.provenance.model)
    for cell, found in tasks(record).items():
        compared = {} if random else agreements(found, record.baseline, bits(record))
        against = ratios(found)
        rows = [
            (*_speed(name, task, against.get(name), record.arms[name].start_seconds or 0.0),
             *_compared(compared.get(name), referred=bool(compared)))
            for name, task in found.items()
        ]  # fmt: skip
        made.append(Table(task_name(cell), _TASK, rows))
    if made:
        made.insert(0, f"{HOW} {UNCOMPARED if random else RULE}")
    return made + ([f"Not measured: {', '.join(absent)}."] if absent else [])


def _speed(name: str, task: Task, ratio: float | None, start: float) -> tuple[str, ...]:
    seconds = task.seconds
    return (
        name,
        f"{task.items:,}",
        f"{task.rate:.1f}",
        f"{ratio:.2f}" if ratio else MISSING,
        f"{task.end_to_end(start):.2f}",
        f"{start:.1f}",
        f"{seconds.load + seconds.build:.1f}",
        f"{seconds.tokenise:.2f}",
        f"{seconds.scoring:.2f}",
        f"{task.metric} {task.score:.4g}",
    )


def _compared(found: Agreement | None, *, referred: bool) -> tuple[str, str, str]:
    if found is None:
        return "reference" if referred else MISSING, MISSING, MISSING
    return (
        f"{found.score_difference:+.2g}{' (unequal)' if found.reason else ''}",
        MISSING if found.turned is None else f"{found.turned}",
        MISSING if found.mean_difference is None else f"{found.mean_difference:.1e}",
    )


def share(rounds: list[Round]) -> float:
    """Of the engine's plain rate that scoring reaches, the median over rounds."""
    return median(one.scored.rate / one.plain.rate for one in rounds)


def _rate(record: Record[Part]) -> list[str | Table]:
    by_arm: dict[str, list[Round]] = {}
    for row in record.rows:
        if row.round:
            by_arm.setdefault(row.arm, []).append(row.round)
    rows = []
    for name, rounds in by_arm.items():
        plain, scored = [one.plain for one in rounds], [one.scored for one in rounds]
        prompts = record.settings["prompts"]
        rows.append((
            name,
            f"{prompts:,} × {(plain[0].computed_tokens + plain[0].cached_tokens) / prompts:.0f}",
            f"{plain[0].cached:.0%} / {scored[0].cached:.0%}",
            " ".join(f"{one.rate:,.0f}" for one in plain),
            " ".join(f"{one.rate:,.0f}" for one in scored),
            f"{share(rounds):.1%}",
        ))  # fmt: skip
    return [RATE, Table("", _ROUNDS, rows)] if rows else []


def _client(record: Record[Part]) -> list[str | Table]:
    rows = [
        (
            f"{found.requests:,}", f"{found.base / 2**20:.0f}", f"{found.peak / 2**20:.0f}",
            *(f"{size / found.requests:,.0f}" for size in (found.held - found.base, found.result, found.overhead)),
            f"{found.seconds / found.requests * 1e6:.0f}",
        )
        for found in sorted((row.client for row in record.rows if row.client), key=lambda found: found.requests)
    ]  # fmt: skip
    return [CLIENT, Table("", _BYTES, rows)] if rows else []
