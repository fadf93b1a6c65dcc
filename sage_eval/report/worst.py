"""The items on which the candidate loses most, with what was asked and what both arms answered."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_eval.runs.comparison import ArmPair, Comparison, TaskComparison
from sage_eval.runs.folder import Run
from sage_eval.runs.pairing import Pair, pair
from sage_eval.runs.records import Sample
from sage_eval.runs.verdicts import judged_rows

HEAD, TAIL = 240, 640
"""Characters shown of both ends of a long prompt: what is asked stands at its end."""
ANSWER = 400


@dataclass(frozen=True)
class Answer:
    """A row of an item's table: a choice, a text, or a likelihood, as each arm has it."""

    name: str
    baseline: str
    candidate: str


@dataclass(frozen=True)
class Item:
    """An item with its loss; `loss` is sorted by, `lost` says that the baseline was right and the candidate wrong."""

    task: str
    doc_id: int
    loss: float
    lost: bool
    what: str
    prompt: str
    answers: list[Answer]


def worst(run: Run, most: int = 20) -> list[Item]:
    """At most `most` items, the worst of each asked task in turn: losses of different metrics have no common unit."""
    comparison: Comparison = run.comparison
    pairs = next(p for p in comparison.pairs if p.role == "candidate")
    items = pair(run.arms[pairs.baseline], run.arms[pairs.candidate])
    margins: Mapping[str, float] = run.manifest.arguments.get("margin") or {}
    metrics = {row.task: row for row in judged_rows(pairs, margins)}
    queues: dict[str, list[tuple[tuple[float, float], str, Pair]]] = {}
    for task, found in items.items():
        row = metrics.get(_judged(task, pairs, metrics))
        if row is not None:
            name = row.metric.partition(",")[0]
            scored = [(_loss(both, name, row), task, both) for both in found if name in both[0].metrics]
            queues.setdefault(row.task, []).extend(entry for entry in scored if max(entry[0]) > 0)
    ranked = [sorted(queue, key=lambda e: (-e[0][0], -e[0][1], e[1], e[2][0].doc_id)) for queue in queues.values()]
    chosen = [queue[rank] for rank in range(max(map(len, ranked), default=0)) for queue in ranked if rank < len(queue)]
    return [_item(run, task, loss, both) for loss, task, both in chosen[:most]]


def _judged(task: str, pairs: ArmPair, metrics: Mapping[str, TaskComparison]) -> str:
    """The task or group by whose metric `task` is judged."""
    parents = {row.task: row.parent for row in pairs.tasks}
    name: str | None = task
    while name is not None and name not in metrics:
        name = parents.get(name)
    return name or ""


def _loss(both: Pair, metric: str, row: TaskComparison) -> tuple[float, float]:
    """How much of the metric was lost, and how many nats of the right answer's log-probability."""
    base, cand = (sample.metrics[metric] for sample in both)
    if isinstance(base, tuple) and isinstance(cand, tuple):
        loss = (base[0] - cand[0]) / max(base[1], 1)
        return loss, loss
    if isinstance(base, tuple) or isinstance(cand, tuple):
        return 0.0, 0.0
    lost = (base - cand) * (1 if row.higher_is_better else -1)
    sure = [_sure(sample) for sample in both]
    nats = 0.0 if None in sure else float(sure[0] or 0.0) - float(sure[1] or 0.0)
    # A right answer gained is no loss, even if it was closer before.
    return lost, nats if lost >= 0 else 0.0


def _sure(sample: Sample) -> float | None:
    """Log-probability of the right choice among the choices."""
    if len(sample.logprobs) < 2 or not isinstance(sample.target, int) or not 0 <= sample.target < len(sample.logprobs):
        return None
    top = max(sample.logprobs)
    return sample.logprobs[sample.target] - top - math.log(math.fsum(math.exp(x - top) for x in sample.logprobs))


def _item(run: Run, task: str, loss: tuple[float, float], both: Pair) -> Item:
    base, _ = both
    prompt = run.prompts.get(base.prompt, {})
    lost, nats = loss
    kind = any(isinstance(value, tuple) for value in base.metrics.values())
    if kind:
        what = f"{nats:.3g} nats a unit of text lost"
    elif lost > 0:
        what = "right in the baseline, wrong in the candidate"
    else:
        what = f"same score; {nats:.3g} nats of the right answer lost"
    return Item(
        task, base.doc_id, nats or lost, not kind and lost > 0, what, _prompt(prompt), list(_answers(prompt, both))
    )


def _answers(prompt: Mapping[str, Any], both: Pair) -> Iterator[Answer]:
    base, cand = both
    if base.generated or cand.generated:
        if base.target is not None:
            yield Answer("expected", _cut(base.target), _cut(base.target))
        yield Answer("answer", *(_cut(" | ".join(sample.generated)) for sample in both))
    elif len(base.logprobs) > 1:
        names = _choices(prompt, len(base.logprobs))
        best = [max(range(len(sample.logprobs)), key=sample.logprobs.__getitem__) for sample in both]
        for i, name in enumerate(names):
            right = " (right)" if i == base.target else ""
            cells = (f"{s.logprobs[i]:.3f}" + " ← chosen" * (b == i) for s, b in zip(both, best, strict=True))
            yield Answer(name + right, *cells)
    else:
        yield Answer("log-likelihood, nats", *(f"{math.fsum(sample.logprobs):,.2f}" for sample in both))


def _choices(prompt: Mapping[str, Any], count: int) -> list[str]:
    requests: Sequence[Sequence[Any]] = prompt.get("requests") or []
    texts = [_cut(request[-1]).strip() for request in requests if request]
    return texts if len(texts) == count else [f"choice {i + 1}" for i in range(count)]


def _prompt(prompt: Mapping[str, Any]) -> str:
    """What was asked: the common context, or that of the first request, which for a text is the text itself."""
    parts = [prompt.get("context", "")]
    requests = prompt.get("requests") or []
    if len(requests) == 1 or not prompt.get("context"):
        parts += [part for part in (requests[0] if requests else []) if isinstance(part, str) or "head" in part]
    return _ends(parts)


def _ends(parts: Sequence[Any]) -> str:
    head = next((_text(part, "head") for part in parts if part), "")
    whole = "".join(_text(part, "head") for part in parts)
    if all(isinstance(part, str) for part in parts) and len(whole) <= HEAD + TAIL:
        return whole
    total = sum(part["characters"] if isinstance(part, Mapping) else len(part) for part in parts)
    tail = "".join(_text(part, "tail") for part in parts)
    return f"{(whole or head)[:HEAD]}\n… [{total - HEAD - TAIL:,} characters] …\n{tail[-TAIL:]}"


def _text(part: Any, end: str) -> str:
    return str(part.get(end, "")) if isinstance(part, Mapping) else str(part)


def _cut(value: Any) -> str:
    text = str(value) if not isinstance(value, Mapping) else _text(value, "tail")
    return text if len(text) <= ANSWER else text[:ANSWER] + "…"
