"""A scoring record for people: on a terminal, as a section of a report, as figures. Pure functions."""

from collections.abc import Iterable, Sequence

from sage_eval.probes.scoring.agreement import GENERATED, MEAN, NEAR, PERPLEXITY
from sage_eval.probes.scoring.columns import OURS
from sage_eval.probes.scoring.record import Client, Column, Record, Task

REQUIRED = {f"{OURS}:throughput": 10.0, f"{OURS}:fidelity": 3.5}
"""Times the items a second of lm-eval's `sglang`, on multiple choice."""
REQUIRED_SHARE = 0.85
STOCK = "sglang"
HOW = (
    "Items a second of the same tasks on the same weights, each model in a process of its own, one after the other. "
    "`scoring` counts from the first request sent to the last answer; `end to end` counts everything, the engine's "
    "start as well."
)
RULE = (
    "Answers must be the `reference`'s: another choice only where the reference's lead over it is under "
    f"{NEAR[16]:g} nats, what 16-bit numbers round by ({NEAR[32]:g} in float32), and log-probabilities within "
    f"{MEAN[16]:g} nats on average ({MEAN[32]:g}); perplexities within {PERPLEXITY:.1%}; scores of generated answers "
    f"within one item in {GENERATED}, in 16 bits within one in any case. `turned` counts other choices and texts; "
    "`mean Δ logprob` is in nats a request."
)
UNCOMPARED = "The scores of random weights mean nothing and are not compared."


def text(record: Record) -> str:
    """The tables for a terminal."""
    return markdown(record).partition("\n")[2].lstrip("\n")


def markdown(record: Record) -> str:
    """The section for a report."""
    parts = ["## Evaluation throughput", _head(record), _evaluation(record), _rate(record), _client(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def failures(record: Record) -> list[str]:
    """What went wrong, one line each; an absent package is no failure."""
    found = [f"{name}: {column.error}" for name, column in record.evaluation.items() if column.error]
    found += [
        f"{name}, {task}: {result.error}"
        for name, column in record.evaluation.items()
        for task, result in column.tasks.items()
        if result.error
    ]
    return found + [f"{name}: {rate.error}" for name, rate in record.rate.items() if rate.error]


def ratios(record: Record) -> dict[str, dict[str, float]]:
    """Task → column → items a second against lm-eval's `sglang`, for every task that it finished."""
    stock = record.evaluation.get(STOCK)
    found: dict[str, dict[str, float]] = {}
    for task, result in (stock.tasks if stock else {}).items():
        if base := result.rate:
            rates = {
                name: column.tasks[task].rate for name, column in record.evaluation.items() if task in column.tasks
            }
            found[task] = {name: rate / base for name, rate in rates.items() if rate}
    return found


def _head(record: Record) -> str:
    device = record.devices[0]["name"] if record.devices else record.host.get("cpu")
    versions = ", ".join(
        f"{name} {record.versions[name]}" for name in ("sglang", "torch", "lm-eval") if name in record.versions
    )
    weights = ", random weights" if record.model.get("weights") == "random" else ""
    lines = [f"`{record.model['name']}`{weights} on {device}; {versions}. Repeat with `{record.command}`."]
    lines += [f"**Failed:** {line}" for line in failures(record)]
    return "\n\n".join(lines)


def _evaluation(record: Record) -> str:
    if not record.evaluation:
        return ""
    lines = [f"{HOW} {UNCOMPARED if record.model.get('weights') == 'random' else RULE}"]
    against = ratios(record)
    for task in dict.fromkeys(name for column in record.evaluation.values() for name in column.tasks):
        having = {name: column for name, column in record.evaluation.items() if task in column.tasks}
        compared = any(column.tasks[task].agreement for column in having.values())
        rows = [
            _row(name, column, column.tasks[task], against.get(task, {}).get(name), referred=compared)
            for name, column in having.items()
        ]
        titles = (
            "model", "items", "items/s scoring", f"× {STOCK}", "items/s end to end",
            "start s", "contexts s", "tokenise s", "scoring s", "score", "difference", "turned", "mean Δ logprob",
        )  # fmt: skip
        lines.append(f"### {task}\n\n{_table(titles, rows)}")
    absent = [f"{name} ({column.absent})" for name, column in record.evaluation.items() if column.absent]
    if absent:
        lines.append(f"Not measured: {', '.join(absent)}.")
    if verdict := _verdict(record, against):
        lines.append(verdict)
    return "\n\n".join(lines)


def _row(name: str, column: Column, task: Task, ratio: float | None, *, referred: bool) -> Sequence[str]:
    if task.seconds is None or task.score is None:
        return (name, *("–",) * 9, "failed", "–", "–")
    found, seconds = task.agreement, task.seconds
    start = column.start_seconds or 0.0
    if found is None:
        compared = ("reference" if referred else "–", "–", "–")
    else:
        compared = (
            f"{found.score_difference:+.2g} {'' if found.equal else '(unequal)'}".strip(),
            "–" if found.turned is None else f"{found.turned}",
            "–" if found.mean_difference is None else f"{found.mean_difference:.1e}",
        )
    return (
        name,
        f"{task.items:,}",
        f"{task.rate or 0:.1f}",
        f"{ratio:.2f}" if ratio else "–",
        f"{task.end_to_end(start) or 0:.2f}",
        f"{start:.1f}",
        f"{seconds.load + seconds.build:.1f}",
        f"{seconds.tokenise:.2f}",
        f"{seconds.scoring:.2f}",
        f"{task.metric} {task.score:.4g}",
        *compared,
    )


def _verdict(record: Record, against: dict[str, dict[str, float]]) -> str:
    """The requirement on multiple choice, where it could be measured."""
    lines = []
    for task, found in against.items():
        if record.evaluation[STOCK].tasks[task].metric != "acc" or "mmlu" not in task:
            continue
        for name, required in REQUIRED.items():
            if name in found:
                met = "met" if found[name] >= required else "**not met**"
                lines.append(
                    f"- {task}, {name}: {found[name]:.1f} × lm-eval's `{STOCK}`, {required:g} × required: {met}"
                )
    return "\n".join(lines)


def _rate(record: Record) -> str:
    if not record.rate:
        return ""
    rows = []
    for name, rate in record.rate.items():
        if rate.share is None:
            rows.append((name, *("–",) * 5))
            continue
        plain, scored = ([getattr(one, kind) for one in rate.rounds] for kind in ("plain", "scored"))
        rows.append((
            name,
            f"{rate.prompts:,} × {(plain[0].computed_tokens + plain[0].cached_tokens) / rate.prompts:.0f}",
            " / ".join(f"{passes[0].cached:.0%}" for passes in (plain, scored)),
            " ".join(f"{one.rate:,.0f}" for one in plain),
            " ".join(f"{one.rate:,.0f}" for one in scored),
            f"{rate.share:.1%} ({'met' if rate.share >= REQUIRED_SHARE else '**not met**'})",
        ))  # fmt: skip
    titles = (
        "arm", "prompts × tokens", "cached: plain / scored", "plain, tokens/s a round", "scored, tokens/s a round",
        "share",
    )  # fmt: skip
    return (
        "Uncached prompt tokens a second while scoring, against the same engine's with the same prompts, one new token "
        f"and no log-probabilities; the median over rounds is the share, {REQUIRED_SHARE:.0%} is required.\n\n"
        + _table(titles, rows)
    )


def _client(record: Record) -> str:
    if not record.client:
        return ""

    def each(found: Client, size: int) -> str:
        return f"{size / found.requests:,.0f}"

    rows = [
        (
            f"{found.requests:,}", f"{found.base / 2**20:.0f}", f"{found.peak / 2**20:.0f}",
            each(found, found.held - found.base), each(found, found.result), each(found, found.overhead),
            f"{found.seconds / found.requests * 1e6:.0f}",
        )
        for found in record.client
    ]  # fmt: skip
    titles = ("requests", "MiB at rest", "MiB peak", "bytes/request held", "result", "beyond these", "µs/request")
    return (
        "The client alone, scoring short requests through an engine that answers at once. The caller holds the "
        "requests and the results; what the client needs beyond these should not grow.\n\n" + _table(titles, rows)
    )


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
