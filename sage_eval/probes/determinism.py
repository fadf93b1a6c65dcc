"""Does a prompt get the same answer alone, in a batch, in another order, in chunks and after a cached prefix?

Each way is compared with `whole` (the prompt alone and in one piece) by the log-probabilities of the prompt's second
half and by the tokens generated after it. What batching and chunking change in the baseline is the floor beside which
the candidate's figures stand; `error` is the candidate's own distance from the baseline, both `whole`.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from sage_eval.engine.arm import Arm
from sage_eval.engine.requests import GenerateRequest, ScoreRequest
from sage_eval.errors import DataError, EngineError, UsageError
from sage_eval.runs.files import read_record

DETERMINISM = "determinism.json"
Prompt = tuple[int, ...]
Opened = Callable[..., AbstractContextManager[Arm]]
WAYS = {
    "whole": "alone, in one piece",
    "repeat": "the same again",
    "batched": "all prompts at once",
    "shuffled": "all at once, in another order",
    "chunked": "alone, `chunked_prefill_size`",
    "prefix": "alone, first half in the prefix cache",
}
HOW = (
    "What batches, chunks and cached prefixes change in the baseline is the floor: differences of that size in another "
    "arm, or between two arms, mean nothing."
)
_SEED = 1


class WayResult(BaseModel):
    """One way of serving against `whole`: |Δ log-probability| in nats over all scored tokens of all prompts.

    `identical` counts prompts whose every log-probability has the same bits, `same_output` those whose greedy
    continuation is the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    way: str
    prompts: int
    identical: int
    mean: float
    largest: float
    same_output: int


class ArmResult(BaseModel):
    """All ways of one arm; `error` is mean |Δ log-probability| of its `whole` against the first arm's, in nats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    backend: str
    ways: list[WayResult]
    error: float | None


class Determinism(BaseModel):
    """`determinism.json`: prompts of `tokens` tokens, chunks of `chunk`, arms in order, the baseline first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    model: str
    tokens: int
    chunk: int
    generated: int
    arms: list[ArmResult]


@dataclass(frozen=True)
class Answers:
    """What an arm said: log-probabilities [prompts, tokens/2] in nats and generated ids."""

    logprobs: npt.NDArray[np.float64]
    outputs: list[tuple[int, ...]]


def cut(documents: Sequence[Sequence[int]], count: int, tokens: int) -> list[Prompt]:
    """The first `tokens` ids of the first `count` documents that have as many; `DataError` where there are fewer."""
    prompts = [tuple(ids[:tokens]) for ids in documents if len(ids) >= tokens][:count]
    if len(prompts) < count:
        raise DataError(f"only {len(prompts)} documents have {tokens} tokens: ask for fewer --prompts or --tokens")
    return prompts


def probe(
    arms: Sequence[tuple[str, Opened]], prompts: Sequence[Prompt], *, chunk: int, generated: int
) -> Iterator[ArmResult]:
    """Serve `prompts` in every way with each arm in turn; yields each arm's result when it is complete.

    An arm is a name and `opened(**engine_arguments) -> Arm`. Two engines an arm: chunking is a setting of the engine.
    `UsageError` where nothing would be chunked, `EngineError` where the cache was not used, or used, against the way.
    """
    shortest = min(map(len, prompts))
    if not 0 < chunk < shortest:
        raise UsageError(f"--chunk {chunk} must be shorter than the prompts ({shortest} tokens)")
    baseline: Answers | None = None
    for name, opened in arms:
        # The prefix cache is on, so that `prefix` can use it, and emptied before whatever must not.
        with opened(disable_radix_cache=False, chunked_prefill_size=-1) as arm:
            backend = arm.backend
            answers = {way: _serve(arm, prompts, way, generated) for way in WAYS if way != "chunked"}
        with opened(disable_radix_cache=False, chunked_prefill_size=chunk) as arm:
            answers["chunked"] = _serve(arm, prompts, "chunked", generated)
        whole = answers.pop("whole")
        error = None if baseline is None else float(np.abs(whole.logprobs - baseline.logprobs).mean())
        baseline = baseline or whole
        ways = [against(whole, answers[way], way) for way in WAYS if way in answers]
        yield ArmResult(arm=name, backend=backend, error=error, ways=ways)


def against(whole: Answers, other: Answers, way: str) -> WayResult:
    """`other` compared with `whole`, prompt by prompt."""
    change = np.abs(other.logprobs - whole.logprobs)
    return WayResult(
        way=way,
        prompts=len(change),
        identical=int((change == 0).all(axis=1).sum()),
        mean=float(change.mean()),
        largest=float(change.max()),
        same_output=sum(a == b for a, b in zip(whole.outputs, other.outputs, strict=True)),
    )


def text(result: Determinism) -> str:
    """The result as a Markdown table."""
    lines = [
        f"{result.arms[0].ways[0].prompts} prompts of {result.tokens:,} tokens; log-probabilities of the second half, "
        f"{result.generated} greedy tokens after it; chunks of {result.chunk:,}.",
        "",
        "| arm | served | same bits | mean abs. difference (nats) | largest | same output |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for arm in result.arms:
        for way in arm.ways:
            lines.append(
                f"| {arm.arm} | {way.way}: {WAYS[way.way]} | {way.identical}/{way.prompts} | {way.mean:.2g} | "
                f"{way.largest:.2g} | {way.same_output}/{way.prompts} |"
            )
    errors = [f"{arm.arm} {arm.error:.2g}" for arm in result.arms if arm.error is not None]
    if errors:
        lines += ["", f"Mean absolute difference from {result.arms[0].arm}, both `whole`: {', '.join(errors)} nats."]
    return "\n".join(lines) + "\n"


def markdown(result: Determinism) -> str:
    """A section of a report."""
    return f"## Determinism\n\n{text(result)}\n{HOW}\n"


def read(path: Path) -> Determinism:
    """The record in `path`; `DataError` where it is missing, damaged, or of another version."""
    return read_record(Determinism, path)


def _serve(arm: Arm, prompts: Sequence[Prompt], way: str, generated: int) -> Answers:
    order = list(range(len(prompts)))
    if way == "shuffled":
        random.Random(_SEED).shuffle(order)
    together = way in ("batched", "shuffled")
    logprobs: dict[int, Sequence[float]] = {}
    outputs: dict[int, tuple[int, ...]] = {}
    for members in [order] if together else [[index] for index in order]:
        chosen = [prompts[index] for index in members]
        _prime(arm, chosen, way)
        before = arm.coverage.cached_tokens
        scores = arm.score([_second_half(prompt) for prompt in chosen], greedy=False)
        hits = arm.coverage.cached_tokens - before
        if way == "prefix" and not hits:
            raise EngineError(f"{arm.backend}: the first half of a prompt was served and then not found in the cache")
        # Articles of one batch may share their first token or two; a prompt that is alone shares with nobody.
        if way != "prefix" and not together and hits:
            raise EngineError(f"{arm.backend}: {hits} tokens came from the cache, which had just been emptied")
        _prime(arm, chosen, way)
        sampling = {"max_new_tokens": generated, "temperature": 0.0, "ignore_eos": True}
        replies = arm.generate([GenerateRequest(prompt, sampling) for prompt in chosen])
        logprobs |= {index: score.logprobs for index, score in zip(members, scores, strict=True)}
        outputs |= {index: reply.tokens for index, reply in zip(members, replies, strict=True)}
    everyone = range(len(prompts))
    return Answers(np.array([logprobs[index] for index in everyone]), [outputs[index] for index in everyone])


def _second_half(prompt: Prompt) -> ScoreRequest:
    """The tokens after the first half are scored but for one, so that the cache may hold exactly the first half."""
    half = len(prompt) // 2 + 1
    return ScoreRequest(prompt[:half], prompt[half:])


def _prime(arm: Arm, prompts: Sequence[Prompt], way: str) -> None:
    """Empty the prefix cache; for `prefix`, then fill it with the first halves."""
    arm.flush_cache()
    if way != "prefix":
        return
    for prompt in prompts:
        half = len(prompt) // 2
        arm.score([ScoreRequest(prompt[:half], (prompt[half],))], greedy=False)
