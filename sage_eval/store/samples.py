"""What is kept of each answered item: numbers and short texts, with the prompt by hash.

lm-eval's own sample records repeat the document and the whole prompt once per answer choice; a run of WikiText-2 and
ten MMLU subjects is over 30 MB of them. Here a sample is a short line and each prompt is stored once.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sage_eval.errors import EngineError
from sage_eval.store.files import plain

# A prompt longer than this is kept as its two ends: (task, doc_id) finds the rest in the data set or its generator.
LONGEST_PROMPT = 4_096
HEAD, TAIL = 256, 2_048
UNITS = 100_000
"""Log-probabilities are kept in steps of 1/UNITS nats: a kernel's rounding is hundreds of times that."""

Number = float | int
Score = Number | tuple[Number, Number]
"""An item's part of a metric: a number, or one over which sums are taken and its weight."""


class Sample(BaseModel):
    """One item answered by one arm. `logprobs` and `greedy` follow the order of the item's requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    doc_id: int
    filter: str = "none"
    prompt: str = Field(description="hash of everything the model was asked for this item")
    target: str | int | float | None = None
    metrics: dict[str, Score] = Field(
        description="a pair is (log-likelihood in nats, weight) of a text, or (sum, number) of an item's several values"
    )
    logprobs: list[float] = Field(default=[], description="nats, rounded to 1e-5")
    greedy: list[bool] = []
    generated: list[str] = []
    cell: dict[str, str | int | float] = {}
    sizes: dict[str, list[int]] = Field(
        default={}, description="by metric, what the choices' log-probabilities are divided by, where they are"
    )

    @property
    def key(self) -> tuple[str, int, str]:
        """What pairs this item with the same item of another arm."""
        return self.task, self.doc_id, self.filter


def prompt_hash(arguments: Any) -> str:
    """SHA-256, cut to 128 bits, over all requests of an item: contexts, continuations and generation settings."""
    text = json.dumps(plain(arguments), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def scored(metrics: Sequence[str]) -> list[str]:
    """Without those that hold another one's items again, for lm-eval to aggregate them to its standard error."""
    return [name for name in metrics if not (name.endswith("_stderr") and name.removesuffix("_stderr") in metrics)]


def from_lm_eval(
    samples: Mapping[str, Iterable[Mapping[str, Any]]],
    keep: Callable[[str, str, Any], Score | None],
    cells: Mapping[str, Sequence[str]] = MappingProxyType({}),
    sizes: Callable[[str, Mapping[str, Any]], dict[str, list[int]]] = lambda _task, _row: {},
) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Reduce lm-eval's `samples` to `Sample` lines and the prompts they refer to, both in lm-eval's order.

    `keep(task, metric, value)` says what is kept of a metric's value; where it is None, the item has no such metric.
    `cells`: by task, the columns of its documents by which results are grouped. A column that only happens to be called
    `length` or `document` is the document's own. `sizes(task, row)`: see `Sample`. Raises `EngineError` where a
    log-probability is not finite: `argmax` over NaN would still choose an answer.
    """
    lines: list[Sample] = []
    prompts: dict[str, dict[str, Any]] = {}
    for task, rows in samples.items():
        for row in rows:
            name = prompt_hash(row["arguments"])
            prompts.setdefault(name, {"hash": name, "task": task, "doc_id": row["doc_id"], **_prompt(row["arguments"])})
            lines.append(_sample(task, name, row, keep, cells.get(task, ()), sizes(task, row)))
    return lines, list(prompts.values())


def _sample(
    task: str,
    prompt: str,
    row: Mapping[str, Any],
    keep: Callable[[str, str, Any], Score | None],
    cell: Sequence[str],
    sizes: dict[str, list[int]],
) -> Sample:
    scores, generated = _answers(row)
    for value, _ in scores:
        if not math.isfinite(value):
            raise EngineError(
                f"{task}, item {row['doc_id']}: a log-likelihood is {value}; this arm's attention backend is broken"
            )
    metrics = {name: score for name in scored(row["metrics"]) if (score := keep(task, name, row[name])) is not None}
    document = row["doc"]
    return Sample(
        task=task,
        doc_id=row["doc_id"],
        filter=row["filter"],
        prompt=prompt,
        target=_target(plain(row["target"])),
        metrics=metrics,
        logprobs=[round(value * UNITS) / UNITS for value, _ in scores],
        greedy=[greedy for _, greedy in scores if greedy is not None],
        generated=generated,
        cell={name: document[name] for name in cell if name in document},
        sizes=sizes,
    )


def _answers(row: Mapping[str, Any]) -> tuple[list[tuple[float, bool | None]], list[str]]:
    """Log-likelihoods, each with whether it was the greedy answer (unknown for whole texts), and generated texts.

    What a filter made of a generated text, a number for instance, stays a text. Repeats follow each other.
    """
    request = row["arguments"][0]
    generates = len(request) > 1 and isinstance(request[1], Mapping)
    scores: list[tuple[float, bool | None]] = []
    generated: list[str] = []
    left = list(row["filtered_resps"])[::-1]
    while left:
        response = left.pop()
        match response:
            case [value, greedy] if not generates and isinstance(greedy, bool | np.bool_):
                scores.append((float(value), bool(greedy)))
            case list() | tuple():
                left += response[::-1]
            case _ if generates:
                generated.append(str(response))
            case _:
                scores.append((float(response), None))
    return scores, generated


def _target(value: Any) -> str | int | float | None:
    """Aliases and other lists as JSON text; None for a long text: that of a rolling perplexity is the prompt."""
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    return None if isinstance(value, str) and len(value) > TAIL else value


def _prompt(arguments: Any) -> dict[str, Any]:
    context = arguments[0][0]
    if any(request[0] != context for request in arguments):
        return {"requests": [_shorten(list(request)) for request in arguments]}
    return {"context": _shorten(context), "requests": [_shorten(list(request[1:])) for request in arguments]}


def _shorten(value: Any) -> Any:
    """`value` with each long text replaced by its ends and its length."""
    if isinstance(value, list):
        return [_shorten(item) for item in value]
    if isinstance(value, str) and len(value) > LONGEST_PROMPT:
        return {"head": value[:HEAD], "tail": value[-TAIL:], "characters": len(value)}
    return plain(value)
