"""Fewer, better ordered engine requests for the same answers. Pure functions on token ids."""

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sage_eval.engine.requests import GenerateRequest, Group, Payload, ScoreRequest
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


class Groups(Sequence[Group]):
    """Groups of `requests`, each put together when it is asked for: a few bytes a request are kept.

    `members` are indices of `requests`, group after group; `ends` where each group's end.
    """

    def __init__(
        self, requests: Sequence[ScoreRequest], members: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> None:
        self._requests, self._members, self._ends = requests, members, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        members = self.members(range(len(self))[index])
        requests = [self._requests[member] for member in members]
        prompt = requests[0].context + requests[0].continuation[:-1]
        start = min(len(request.context) for request in requests)
        return Group(prompt, start, members, {request.continuation[-1] for request in requests})

    def members(self, index: int) -> list[int]:
        """Those of the group at `index`, from 0 on."""
        found: list[int] = self._members[self._ends[index - 1] if index else 0 : self._ends[index]].tolist()
        return found


def group_scores(requests: Sequence[ScoreRequest], *, share_prefixes: bool) -> Groups:
    """One group for all requests with the same `context + continuation[:-1]`, repeats included.

    The four answers of a multiple-choice question are one prompt. With `share_prefixes` (prefix cache on) groups come
    in the order of their tokens, so that neighbours share a prefix; without it the longest come first, so that what
    does not fit into memory fails early.
    """
    numbers: dict[tuple[int, ...], int] = {}
    owners = np.empty(len(requests), np.int64)
    for index, request in enumerate(requests):
        if not request.context or not request.continuation:
            raise UsageError(f"score request {index}: context and continuation need at least one token each")
        owners[index] = numbers.setdefault(request.context + request.continuation[:-1], len(numbers))
    prompts = sorted(numbers, key=None if share_prefixes else lambda prompt: (-len(prompt), prompt))
    ranks = np.empty(len(numbers), np.int64)
    for rank, prompt in enumerate(prompts):
        ranks[numbers[prompt]] = rank
    places = ranks[owners]
    members = places.argsort(kind="stable")  # of one group, in the order of the requests
    return Groups(requests, members, np.bincount(places, minlength=len(prompts)).cumsum())


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
