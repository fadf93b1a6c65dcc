"""Serves the same prompts in every way, and compares each with `whole`: the prompt alone and in one piece.

Compared are the log-probabilities of the prompt's second half and the tokens generated after it. What batching and
chunking change in the baseline is the floor beside which the candidate's figures stand; `error` is the candidate's own
distance from the baseline, both `whole`.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sage_eval.engine.arm import Arm
from sage_eval.engine.requests import GenerateRequest, ScoreRequest
from sage_eval.errors import EngineError, SageEvalError, UsageError
from sage_eval.probes.articles import Prompt
from sage_eval.probes.determinism.record import WAYS, ArmResult, WayResult

Opened = Callable[..., AbstractContextManager[Arm]]
_SEED = 1


@dataclass(frozen=True)
class Answers:
    """What an arm said: log-probabilities [prompts, tokens/2] in nats and generated ids."""

    logprobs: npt.NDArray[np.float64]
    outputs: list[tuple[int, ...]]


def probe(
    arms: Sequence[tuple[str, Opened]], prompts: Sequence[Prompt], *, chunk: int, generated: int
) -> Iterator[ArmResult]:
    """Serve `prompts` in every way with each arm in turn; yields each arm's result when it is complete.

    An arm is a name and `opened(**engine_arguments) -> Arm`. Two engines an arm: chunking is a setting of the engine.
    `UsageError` where nothing would be chunked, `EngineError` where the baseline fails, or its cache was not used, or
    used, against the way; what another arm raises is put into its result.
    """
    shortest = min(map(len, prompts))
    if not 0 < chunk < shortest:
        raise UsageError(f"--chunk {chunk} must be shorter than the prompts ({shortest} tokens)")
    baseline: Answers | None = None
    for name, opened in arms:
        try:
            backend, answers = _measure(opened, prompts, chunk, generated)
        except SageEvalError as error:
            if baseline is None:
                raise
            yield ArmResult(arm=name, backend="", ways=[], error=None, failure=str(error))
            continue
        whole = answers.pop("whole")
        distance = None if baseline is None else float(np.abs(whole.logprobs - baseline.logprobs).mean())
        baseline = baseline or whole
        ways = [against(whole, answers[way], way) for way in WAYS if way in answers]
        yield ArmResult(arm=name, backend=backend, error=distance, ways=ways)


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


def _measure(opened: Opened, prompts: Sequence[Prompt], chunk: int, generated: int) -> tuple[str, dict[str, Answers]]:
    """The backend that served, and the answers by way."""
    # The prefix cache is on, so that `prefix` can use it, and emptied before whatever must not.
    with opened(disable_radix_cache=False, chunked_prefill_size=-1) as arm:
        backend = arm.backend
        answers = {way: _serve(arm, prompts, way, generated) for way in WAYS if way != "chunked"}
    with opened(disable_radix_cache=False, chunked_prefill_size=chunk) as arm:
        answers["chunked"] = _serve(arm, prompts, "chunked", generated)
    return backend, answers


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
