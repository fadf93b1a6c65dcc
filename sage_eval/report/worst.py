"""The items on which the candidate loses most, with what was asked and what both arms answered."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_eval.compare.pairing import Pair
from sage_eval.compare.ranking import chosen, ranked
from sage_eval.compare.worst import Loss, losses
from sage_eval.render.sections import Folded
from sage_eval.render.table import Table
from sage_eval.render.text import code, escape
from sage_eval.store.folder import Run

HEAD, TAIL = 240, 640
"""Characters shown of both ends of a long prompt: what is asked stands at its end."""
ANSWER = 400
LEAST = 1e-3
"""Nats, of a likelihood a word; less is no loss that anyone would look at."""


@dataclass(frozen=True)
class Answer:
    """One row of an item's table: a choice, a text, or a likelihood, as each arm has it."""

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


def worst(run: Run, most: int = 20) -> list[Item]:
    """At most `most` items, the worst of each asked task in turn: losses of different metrics have no common unit."""
    found = losses(run, run.comparison).values()
    ranked = [[loss for loss in queue if loss.lost > 0 or loss.nats >= LEAST] for queue in found]
    chosen = [queue[rank] for rank in range(max(map(len, ranked), default=0)) for queue in ranked if rank < len(queue)]
    return [_item(run, loss) for loss in chosen[:most]]


def _item(run: Run, loss: Loss) -> Item:
    base, _ = loss.both
    prompt = run.prompts.get(base.prompt, {})
    if loss.lost > 0:
        what = "right in the baseline, wrong in the candidate" if loss.lost == 1 else f"{loss.lost:.3g} lost"
    elif isinstance(base.metrics[loss.metric], tuple):
        unit = loss.metric.partition("_")[0]
        what = f"{loss.nats:.3g} nats a {unit if unit in ('word', 'byte', 'token') else 'unit'} lost"
    else:
        what = f"same score; {loss.nats:.3g} nats of the right answer lost"
    answers = list(_answers(prompt, loss.both, loss.metric))
    return Item(loss.task, base.doc_id, loss.nats or loss.lost, loss.lost > 0, what, _prompt(prompt), answers)


def _answers(prompt: Mapping[str, Any], both: Pair, metric: str) -> Iterator[Answer]:
    base, cand = both
    if base.generated or cand.generated:
        if base.target is not None:
            yield Answer("expected", _cut(base.target), _cut(base.target))
        yield Answer("answer", *(_cut(" | ".join(sample.generated)) for sample in both))
    elif len(base.logprobs) > 1:
        names = _choices(prompt, len(base.logprobs))[: len(ranked(base, metric))]
        best = [chosen(sample, metric) for sample in both]
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


def folded(items: Sequence[Item]) -> Iterator[Folded]:
    """Each item as a part of a report; what models and data sets say stays words."""
    for item in items:
        header = ("choice, ln p" if len(item.answers) > 2 else "", "baseline", "candidate")
        rows = [tuple(map(escape, (row.name, row.baseline, row.candidate))) for row in item.answers]
        prompt = [code(item.prompt)] if item.prompt else []
        title = f"**{escape(item.task)}**, item {item.doc_id}: {item.what}"
        yield Folded(title, [*prompt, Table("Answers of both arms", header, rows, names=3)])
