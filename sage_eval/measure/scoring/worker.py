"""The processes of `bench scoring`: an lm-eval model that answers tasks, an engine that is rated, and a client."""

import random
import time
from collections.abc import Sequence
from typing import Any

from sage_eval.arms.engine import EngineHost
from sage_eval.engine.arm import Arm
from sage_eval.engine.planning import group_scores
from sage_eval.engine.requests import Payload, Reply, ScoreRequest
from sage_eval.measure.scoring import models
from sage_eval.measure.scoring.models import Stopwatch
from sage_eval.measure.scoring.rows import Pass, Round

WARM_UP = {True: 33, False: 2}
"""Texts before the first task, with and without a GPU."""
SHARED = 0.75
"""Of a prompt, on average: the examples with which all questions of a subject begin."""
QUESTIONS = 10
"""Per subject."""
PLAIN = {"max_new_tokens": 1, "temperature": 0.0, "ignore_eos": True}

Prompts = Sequence[tuple[int, ...]]


class EvaluatedModel:
    """An lm-eval model by its `name`; `model` is the folder with the tasks' tokenizer."""

    def __init__(self, name: str, model: str, arguments: dict[str, Any]) -> None:
        start = time.perf_counter()
        self._model, self._stopwatch = model, Stopwatch()
        self._lm = models.open_model(name, arguments, self._stopwatch)
        self._seconds = time.perf_counter() - start

    def introduction(self) -> dict[str, Any]:
        """Fields of an `ArmEntry`: the model's own time, without that of this process."""
        return {"start_seconds": round(self._seconds, 2)}

    def warm_up(self) -> None:
        """Answer a short text, and then several at once: kernels are compiled, caches filled."""
        import torch
        from lm_eval.api.instance import Instance

        words = list(models.warm_up_texts(WARM_UP[torch.cuda.is_available()]))
        for batch in (words[:1], words[1:]):
            self._lm.loglikelihood([Instance("loglikelihood", {}, (text, " A"), i) for i, text in enumerate(batch)])

    def task(self, **asked: Any) -> dict[str, Any]:
        """Fields of a `Task`; see `evaluate.run_task`."""
        from sage_eval.measure.scoring.evaluate import run_task

        return run_task(self._lm, self._stopwatch, tokenizer=self._model, **asked).model_dump()

    def close(self) -> None:
        """End the model's engine."""
        models.close(self._lm)


class RatedEngine(EngineHost):
    """An engine that scores prompts, and prefills them plainly."""

    def round(self, count: int, tokens: int, vocabulary: int, seed: int, scored_first: bool) -> dict[str, Any]:
        """Fields of a `Round`: both passes, each with an empty prefix cache, in the order that scoring sends."""
        prompts = make_prompts(count, tokens, vocabulary, seed)
        passes = {"scored": _scored, "plain": _plain}
        order = ("scored", "plain") if scored_first else ("plain", "scored")
        return Round(**{name: passes[name](self.arm, prompts) for name in order}).model_dump()


class EchoClient:
    """A client whose engine answers at once."""

    def score(self, requests: int, seed: int) -> dict[str, Any]:
        """Fields of a `Client`; see `echo.measure`."""
        from sage_eval.measure.scoring.echo import measure

        return measure(requests, seed).model_dump()


def make_prompts(count: int, tokens: int, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
    """`count` prompts of random tokens, `tokens` long on average, lengths and shared beginnings like 5-shot MMLU's."""
    rng = random.Random(seed)
    shared: list[int] = []
    prompts = []
    for index in range(count):
        if index % QUESTIONS == 0:
            shared = [rng.randrange(vocabulary) for _ in range(round(tokens * SHARED))]
        own = max(1, round(tokens * (1 - SHARED) * rng.uniform(0.4, 1.6)))
        prompts.append((*shared, *(rng.randrange(vocabulary) for _ in range(own))))
    return prompts


def _requests(prompts: Prompts) -> list[ScoreRequest]:
    return [ScoreRequest(prompt, (answer,)) for prompt in prompts for answer in range(4)]


def _plain(arm: Arm, prompts: Prompts) -> Pass:
    requests = _requests(prompts)
    groups = group_scores(requests, share_prefixes=arm.share_prefixes)
    payloads: list[Payload] = [
        {"input_ids": list(requests[first].prompt), "sampling_params": PLAIN} for first, *_ in groups
    ]
    arm.flush_cache()
    start = time.perf_counter()
    replies: list[Reply] = [reply for _, reply in arm.transport.stream(payloads)]
    seconds = time.perf_counter() - start
    metas = [reply["meta_info"] for reply in replies]
    cached = sum(meta.get("cached_tokens") or 0 for meta in metas)
    prompt = sum(meta["prompt_tokens"] for meta in metas)
    return Pass(seconds=seconds, computed_tokens=prompt - cached, cached_tokens=cached)


def _scored(arm: Arm, prompts: Prompts) -> Pass:
    """As the adapter does it: grouping, payloads and reading of replies are part of the time."""
    requests = _requests(prompts)
    arm.flush_cache()
    before = arm.coverage
    start = time.perf_counter()
    arm.score(requests)
    seconds = time.perf_counter() - start
    cached = arm.coverage.cached_tokens - before.cached_tokens
    computed = arm.coverage.computed_tokens - before.computed_tokens
    return Pass(seconds=seconds, computed_tokens=computed, cached_tokens=cached)
