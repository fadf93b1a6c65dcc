"""The items on which the candidate loses most, with what was asked and what both arms answered."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_eval.runs.comparison import ArmPair, Comparison, TaskComparison
from sage_eval.runs.folder import Run
from sage_eval.runs.pairing import Pair, pair_tasks
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
    """An item with its loss in nats, or in its metric where there are none; `lost`: the candidate's score is lower."""

    task: str
    doc_id: int
    loss: float
    lost: bool
    what: str
    prompt: str
    answers: list[Answer]


@dataclass(frozen=True)
class _Loss:
    """What a pair of answers lost of its metric (0 or less: nothing), and in nats."""

    task: str
    metric: str
    both: Pair
    lost: float
    nats: float

    @property
    def rank(self) -> tuple[float, float, str, int]:
        return -self.lost, -self.nats, self.task, self.both[0].doc_id


def worst(run: Run, most: int = 20) -> list[Item]:
    """At most `most` items, the worst of each asked task in turn: losses of different metrics have no common unit."""
    comparison: Comparison = run.comparison
    pairs = next(p for p in comparison.pairs if p.role == "candidate")
    margins: Mapping[str, float] = run.manifest.arguments.get("margin") or {}
    rows = {row.task: row for row in judged_rows(pairs, margins)}
    queues: dict[str, list[_Loss]] = {}
    paired, _ = pair_tasks(run.arms[pairs.baseline], run.arms[pairs.candidate])
    for task, items in paired.items():
        if row := rows.get(_judged(task, pairs, rows)):
            losses = [_loss(task, both, row) for both in items if _has(both[0], row.metric)]
            queues.setdefault(row.task, []).extend(loss for loss in losses if loss.lost > 0 or loss.nats > 0)
    ranked = [sorted(queue, key=lambda loss: loss.rank) for queue in queues.values()]
    chosen = [queue[rank] for rank in range(max(map(len, ranked), default=0)) for queue in ranked if rank < len(queue)]
    return [_item(run, loss) for loss in chosen[:most]]


def _has(sample: Sample, metric: str) -> bool:
    name, _, chosen = metric.partition(",")
    return name in sample.metrics and sample.filter == (chosen or "none")


def _judged(task: str, pairs: ArmPair, metrics: Mapping[str, TaskComparison]) -> str:
    """The task or group by whose metric `task` is judged."""
    parents = {row.task: row.parent for row in pairs.tasks}
    name: str | None = task
    while name is not None and name not in metrics:
        name = parents.get(name)
    return name or ""


def _loss(task: str, both: Pair, row: TaskComparison) -> _Loss:
    metric = row.metric.partition(",")[0]
    base, cand = (sample.metrics[metric] for sample in both)
    if isinstance(base, tuple) and isinstance(cand, tuple):
        return _Loss(task, metric, both, 0.0, (base[0] - cand[0]) / max(base[1], 1))
    if isinstance(base, tuple) or isinstance(cand, tuple):
        return _Loss(task, metric, both, 0.0, 0.0)
    lost = (base - cand) * (1 if row.higher_is_better else -1)
    before, after = map(_sure, both)
    # A right answer gained is no loss, even if its lead is smaller.
    nats = 0.0 if before is None or after is None or lost < 0 else before - after
    return _Loss(task, metric, both, lost, nats)


def _sure(sample: Sample) -> float | None:
    """Log-probability of the right choice among the choices."""
    if len(sample.logprobs) < 2 or not isinstance(sample.target, int) or not 0 <= sample.target < len(sample.logprobs):
        return None
    top = max(sample.logprobs)
    return sample.logprobs[sample.target] - top - math.log(math.fsum(math.exp(x - top) for x in sample.logprobs))


def _item(run: Run, loss: _Loss) -> Item:
    base, _ = loss.both
    prompt = run.prompts.get(base.prompt, {})
    if isinstance(base.metrics[loss.metric], tuple):
        unit = loss.metric.partition("_")[0]
        what = f"{loss.nats:.3g} nats a {unit if unit in ('word', 'byte', 'token') else 'unit'} lost"
    elif loss.lost > 0:
        what = "right in the baseline, wrong in the candidate" if loss.lost == 1 else f"{loss.lost:.3g} lost"
    else:
        what = f"same score; {loss.nats:.3g} nats of the right answer lost"
    answers = list(_answers(prompt, loss.both))
    return Item(loss.task, base.doc_id, loss.nats or loss.lost, loss.lost > 0, what, _prompt(prompt), answers)


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
