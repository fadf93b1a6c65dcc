"""Scoring against the same engine's plain prefill of the same prompts. Runs in a worker's process."""

import random
import time
from collections.abc import Iterable, Sequence

from sage_eval.engine.arm import Arm
from sage_eval.engine.planning import group_scores
from sage_eval.engine.requests import Payload, Reply, ScoreRequest
from sage_eval.probes.scoring.record import Pass, Round

SHARED = 0.75
"""Of a prompt, on average: the examples that all questions of a subject begin with."""
QUESTIONS = 10
"""Of a subject."""
PLAIN = {"max_new_tokens": 1, "temperature": 0.0, "ignore_eos": True}


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


def warm_up(arm: Arm, prompts: Sequence[tuple[int, ...]]) -> None:
    """Both ways once: kernels are compiled."""
    _ = _scored(arm, prompts), _plain(arm, prompts)


def measure(arm: Arm, prompts: Sequence[tuple[int, ...]], *, scored_first: bool) -> Round:
    """Both passes over `prompts` with an empty prefix cache, in the order that scoring sends them."""
    if scored_first:
        scored = _scored(arm, prompts)
        return Round(plain=_plain(arm, prompts), scored=scored)
    plain = _plain(arm, prompts)
    return Round(plain=plain, scored=_scored(arm, prompts))


def _requests(prompts: Iterable[tuple[int, ...]]) -> list[ScoreRequest]:
    return [ScoreRequest(prompt, (answer,)) for prompt in prompts for answer in range(4)]


def _plain(arm: Arm, prompts: Sequence[tuple[int, ...]]) -> Pass:
    order = group_scores(_requests(prompts), share_prefixes=arm.share_prefixes)
    payloads: list[Payload] = [{"input_ids": list(group.prompt), "sampling_params": PLAIN} for group in order]
    arm.flush_cache()
    start = time.perf_counter()
    replies: list[Reply] = [reply for _, reply in arm.transport.stream(payloads)]
    seconds = time.perf_counter() - start
    metas = [reply["meta_info"] for reply in replies]
    cached = sum(meta.get("cached_tokens") or 0 for meta in metas)
    prompt = sum(meta["prompt_tokens"] for meta in metas)
    return Pass(seconds=seconds, computed_tokens=prompt - cached, cached_tokens=cached)


def _scored(arm: Arm, prompts: Sequence[tuple[int, ...]]) -> Pass:
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
