"""Fewer, better ordered engine requests for the same answers. Pure functions on token ids."""

import json
from collections.abc import Sequence

from sage_eval.engine.requests import GenerateRequest, Group, ScoreRequest


def group_scores(requests: Sequence[ScoreRequest], *, share_prefixes: bool) -> list[Group]:
    """One group for all requests with the same `context + continuation[:-1]`, repeats included.

    The four answers of a multiple-choice question are one prompt. With `share_prefixes` (prefix cache on) groups come
    in the order of their tokens, so that neighbours share a prefix; without it the longest come first, so that what
    does not fit into memory fails early.
    """
    groups: dict[tuple[int, ...], Group] = {}
    for index, request in enumerate(requests):
        if not request.context or not request.continuation:
            raise ValueError(f"score request {index}: context and continuation need at least one token each")
        prompt = request.context + request.continuation[:-1]
        group = groups.setdefault(prompt, Group(prompt, len(request.context), [], set()))
        group.start = min(group.start, len(request.context))
        group.members.append(index)
        group.last_tokens.add(request.continuation[-1])
    order = (lambda group: group.prompt) if share_prefixes else (lambda group: (-len(group.prompt), group.prompt))
    return sorted(groups.values(), key=order)


def group_generations(requests: Sequence[GenerateRequest], *, share_prefixes: bool) -> list[list[int]]:
    """Indices of `requests`, identical greedy ones together: they have one answer. Order as in `group_scores`."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, request in enumerate(requests):
        sampled = request.sampling.get("temperature", 1.0) > 0
        key = (request.prompt, json.dumps(request.sampling, sort_keys=True), request.rid, index if sampled else None)
        groups.setdefault(key, []).append(index)

    def order(group: list[int]) -> tuple[object, ...]:
        prompt = requests[group[0]].prompt
        return (prompt,) if share_prefixes else (-len(prompt), prompt)

    return sorted(groups.values(), key=order)
