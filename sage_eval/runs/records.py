"""What is kept of each answered item: numbers and short texts, with the prompt by hash.

lm-eval's own sample records repeat the document and the whole prompt once per answer choice; a run of WikiText-2 and
ten MMLU subjects is over 30 MB of them. Here a sample is a short line and each prompt is stored once.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.errors import EngineError
from sage_eval.runs.files import plain

# A prompt longer than this is kept as its two ends: (task, doc_id) finds the rest in the data set or its generator.
LONGEST_PROMPT = 4_096
HEAD, TAIL = 256, 2_048
UNITS = 100_000
"""Log-probabilities are kept in steps of 1/UNITS nats: a kernel's rounding is hundreds of times that."""
# Scalars of a document by which results are grouped: where a needle was, which subject, which article.
CELL_FIELDS = ("family", "length", "depth", "subject", "document", "cluster", "title")

Number = float | int


class Sample(BaseModel):
    """One item answered by one arm. `logprobs` and `greedy` follow the order of the item's requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    doc_id: int
    filter: str = "none"
    prompt: str = Field(description="hash of everything the model was asked for this item")
    target: str | int | float | None = None
    metrics: dict[str, Number | tuple[Number, Number]] = Field(
        description="per item; a pair is (log-likelihood in nats, weight), for perplexities"
    )
    logprobs: list[float] = Field(default=[], description="nats, rounded to 1e-5")
    greedy: list[bool] = []
    generated: list[str] = []
    cell: dict[str, str | int | float] = {}

    @property
    def key(self) -> tuple[str, int, str]:
        """What pairs this item with the same item of another arm."""
        return self.task, self.doc_id, self.filter


def prompt_hash(arguments: Any) -> str:
    """SHA-256, cut to 128 bits, over all requests of an item: contexts, continuations and generation settings."""
    text = json.dumps(plain(arguments), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def from_lm_eval(samples: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Reduce lm-eval's `samples` to `Sample` lines and the prompts they refer to, both in lm-eval's order.

    Raises `EngineError` where a logprob or a metric is not finite: `argmax` over NaN would still choose an answer.
    """
    lines: list[Sample] = []
    prompts: dict[str, dict[str, Any]] = {}
    for task, rows in samples.items():
        for row in rows:
            name = prompt_hash(row["arguments"])
            prompts.setdefault(name, {"hash": name, "task": task, "doc_id": row["doc_id"], **_prompt(row["arguments"])})
            lines.append(_sample(task, name, row))
    return lines, list(prompts.values())


def _sample(task: str, prompt: str, row: Mapping[str, Any]) -> Sample:
    answers: dict[str, list[Any]] = {"logprobs": [], "greedy": [], "generated": []}
    for response in row["filtered_resps"]:
        if isinstance(response, str):
            answers["generated"].append(response)
        elif isinstance(response, list | tuple) and len(response) == 2:
            answers["logprobs"].append(_finite(float(response[0]), task, row, "a log-likelihood"))
            answers["greedy"].append(bool(response[1]))
        elif isinstance(response, int | float):
            answers["logprobs"].append(_finite(float(response), task, row, "a log-likelihood"))
    metrics: dict[str, Any] = {}
    for name in row["metrics"]:
        value = row[name].tolist() if hasattr(row[name], "tolist") else row[name]
        if name.removesuffix("_stderr") != name and name.removesuffix("_stderr") in row["metrics"]:
            continue  # the same items again, for lm-eval to aggregate to a standard error
        if isinstance(value, list | tuple) and len(value) in (2, 3) and all(isinstance(v, int | float) for v in value):
            # (log-likelihood, weight), and for windows of a text the document, which is in `cell` already.
            metrics[name] = (_finite(value[0], task, row, name), value[1])
        elif isinstance(value, int | float):
            metrics[name] = _finite(value, task, row, name)
    document = row["doc"] if isinstance(row["doc"], Mapping) else {}
    cell = {k: document[k] for k in CELL_FIELDS if isinstance(document.get(k), str | int | float)}
    target = plain(row["target"])
    return Sample(
        task=task,
        doc_id=row["doc_id"],
        filter=row["filter"],
        prompt=prompt,
        # The target of a rolling perplexity is the whole text, which is the prompt already.
        target=target if not isinstance(target, str | list) or len(str(target)) <= TAIL else None,
        metrics=metrics,
        logprobs=[round(value * UNITS) / UNITS for value in answers["logprobs"]],
        greedy=answers["greedy"],
        generated=answers["generated"],
        cell=cell,
    )


def _finite(value: Any, task: str, row: Mapping[str, Any], what: str) -> Any:
    if not math.isfinite(value):
        raise EngineError(f"{task}, item {row['doc_id']}: {what} is {value}; this arm's attention backend is broken")
    return value


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
