"""The ways of serving the same prompts, on any arm, and how the answers differ."""

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from sage_eval.engine.arm import Arm
from sage_eval.engine.requests import GenerateRequest, ScoreRequest
from sage_eval.errors import EngineError
from sage_eval.measure.determinism.instrument import Way

Prompt = Sequence[int]

_SHUFFLE_SEED = 1


class Answers(BaseModel, arbitrary_types_allowed=True):
    """What an arm said: log-probabilities [prompts, tokens/2] in nats, and generated ids."""

    logprobs: npt.NDArray[np.float64]
    outputs: list[tuple[int, ...]]


def serve(arm: Arm, prompts: Sequence[Prompt], way: str, generated: int) -> Answers:
    """What the arm says of `prompts` served in a way: their second half's log-probabilities, and new tokens.

    The prefix cache is emptied. Raises `EngineError` where it was not used as the way says.
    """
    logprobs: dict[int, Sequence[float]] = {}
    outputs: dict[int, tuple[int, ...]] = {}
    for members in order_of(len(prompts), way):
        chosen = [tuple(prompts[index]) for index in members]
        _prime(arm, chosen, way)
        before = arm.coverage.cached_tokens
        scores = arm.score([_second_half(prompt) for prompt in chosen], greedy=False)
        refuse_cache(arm.backend, way, arm.coverage.cached_tokens - before, together=len(members) > 1)
        _prime(arm, chosen, way)
        sampling = {"max_new_tokens": generated, "temperature": 0.0, "ignore_eos": True}
        replies = arm.generate([GenerateRequest(prompt, sampling) for prompt in chosen])
        logprobs |= {index: score.logprobs for index, score in zip(members, scores, strict=True)}
        outputs |= {index: reply.tokens for index, reply in zip(members, replies, strict=True)}
    everyone = range(len(prompts))
    return Answers(
        logprobs=np.array([logprobs[index] for index in everyone]), outputs=[outputs[index] for index in everyone]
    )


def _second_half(prompt: tuple[int, ...]) -> ScoreRequest:
    """The tokens after the first half are scored but for one, so that the cache may hold exactly the first half."""
    half = len(prompt) // 2 + 1
    return ScoreRequest(prompt[:half], prompt[half:])


def _prime(arm: Arm, prompts: Sequence[tuple[int, ...]], way: str) -> None:
    """Empty the prefix cache; for `prefix`, then fill it with the first halves."""
    arm.flush_cache()
    if way != "prefix":
        return
    for prompt in prompts:
        half = len(prompt) // 2
        arm.score([ScoreRequest(prompt[:half], (prompt[half],))], greedy=False)


def against(whole: Answers, other: Answers, way: str) -> Way:
    """`other` compared with `whole`, prompt by prompt."""
    change = np.abs(other.logprobs - whole.logprobs)
    return Way(
        way=way,
        prompts=len(change),
        identical=int((change == 0).all(axis=1).sum()),
        mean=float(change.mean()),
        largest=float(change.max()),
        same_output=sum(a == b for a, b in zip(whole.outputs, other.outputs, strict=True)),
    )


def order_of(count: int, way: str) -> list[list[int]]:
    """Prompts by number in the batches in which a way serves them."""
    order = list(range(count))
    if way == "shuffled":
        random.Random(_SHUFFLE_SEED).shuffle(order)
    return [order] if way in ("batched", "shuffled") else [[index] for index in order]


def refuse_cache(backend: str, way: str, hits: int, together: bool) -> None:
    """Raise `EngineError` where the prefix cache was not used for `prefix`, or was for another way."""
    if way == "prefix" and not hits:
        raise EngineError(f"{backend}: the first half of a prompt was served and then not found in the cache")
    # Articles of one batch may share their first token or two; a prompt that is alone shares with nobody.
    if way != "prefix" and not together and hits:
        raise EngineError(f"{backend}: {hits} tokens came from the cache, which had just been emptied")
