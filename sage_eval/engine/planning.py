"""Fewer, better ordered engine requests for the same answers. Pure functions on token ids."""

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sage_eval.engine.requests import GenerateRequest, Payload, ScoreRequest
from sage_eval.errors import UsageError


class Payloads(Sequence[Payload]):
    """What `make` answers for each of `places`, made anew whenever it is asked for: only what is sent takes memory."""

    def __init__(self, make: Callable[[int], Payload], places: Sequence[int]) -> None:
        self._make, self._places = make, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._places[index])

    def at(self, order: Sequence[int]) -> "Payloads":
        """Those at the places `order`, in that order."""
        return Payloads(self.__getitem__, order)


def check_tokens(prompts: Iterable[Sequence[int]], vocabulary: int | None) -> None:
    """Raise `UsageError`, with the request's number, for ids that the model's embedding does not have.

    SGLang's scheduler would die of them. `vocabulary` None: its size is not known.
    """
    for index, prompt in enumerate(prompts):
        try:
            ids = array("q", prompt)
        except (TypeError, OverflowError) as error:
            raise UsageError(f"request {index}: token ids must be whole numbers ({error})") from None
        if not ids:
            raise UsageError(f"request {index}: a prompt needs at least one token")
        if min(ids) < 0 or (vocabulary is not None and max(ids) >= vocabulary):
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise UsageError(f"request {index}: the model has no token {wrong}; its vocabulary has {vocabulary}")


def group_scores(requests: Sequence[ScoreRequest], *, share_prefixes: bool) -> list[list[int]]:
    """Indices of `requests`, together those of one prompt, such as the four answers of a question; repeats as well.

    With `share_prefixes` (prefix cache on) prompts come in the order of their tokens, so that neighbours share a
    prefix; without it the longest come first, so that what does not fit into memory fails early.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        if not request.context or not request.continuation:
            raise UsageError(f"score request {index}: context and continuation need at least one token each")
        groups.setdefault(request.prompt, []).append(index)
    return [groups[prompt] for prompt in sorted(groups, key=_order(share_prefixes))]


def group_generations(requests: Sequence[GenerateRequest], *, share_prefixes: bool) -> list[list[int]]:
    """Indices of `requests`, identical greedy ones together: they have one answer. Order as in `group_scores`."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, request in enumerate(requests):
        sampled = request.sampling.get("temperature", 1.0) > 0
        key = (request.prompt, json.dumps(request.sampling, sort_keys=True), request.rid, index if sampled else None)
        groups.setdefault(key, []).append(index)
    order = _order(share_prefixes)
    return sorted(groups.values(), key=lambda group: order(requests[group[0]].prompt))


def _order(share_prefixes: bool) -> Callable[[tuple[int, ...]], Any]:
    return lambda prompt: prompt if share_prefixes else (-len(prompt), prompt)
