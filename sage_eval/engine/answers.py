"""Answers as bytes and back, every number exactly: a JSON description, then the numbers as columns, one a kind."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sage_eval.engine.requests import Generation, Score
from sage_eval.engine.topk import TopK

Answer = Sequence[Score] | Sequence[Generation]
"""What one payload's reply says: the scores of a group's members, or the one generation."""

_KINDS = {"logprobs": "<f8", "top_ids": "<i4", "top_logprobs": "<f4", "tokens": "<i4"}
_LENGTH = struct.Struct("<I")
Columns = dict[str, list[npt.NDArray[Any]]]


def encode(head: dict[str, Any], answers: Sequence[Answer]) -> bytes:
    """`head`, plain values for JSON, and `answers`."""
    columns: Columns = {name: [] for name in _KINDS}
    described = [[_describe(one, columns) for one in answer] for answer in answers]
    sizes = {name: sum(part.size for part in parts) for name, parts in columns.items()}
    text = json.dumps({**head, "answers": described, "sizes": sizes}, separators=(",", ":"), allow_nan=False).encode()
    # Straight from the arrays, which are large: the engine waits meanwhile.
    return b"".join([_LENGTH.pack(len(text)), text, *(part.data for parts in columns.values() for part in parts)])


def head(data: bytes) -> dict[str, Any]:
    """What `encode` was given as `head`, and "answers", their description. `ValueError` for other data."""
    try:
        [length] = _LENGTH.unpack_from(data)
    except struct.error as error:
        raise ValueError(str(error)) from None
    record: dict[str, Any] = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    return record


def decode(data: bytes) -> list[Answer]:
    """The answers that `encode` was given."""
    described = head(data)
    [length] = _LENGTH.unpack_from(data)
    place = _LENGTH.size + length
    columns = {}
    for name, size in described["sizes"].items():
        columns[name] = _Column(np.frombuffer(data, _KINDS[name], size, place))
        place += columns[name].values.nbytes
    return [[_restore(one, columns) for one in answer] for answer in described["answers"]]


def _describe(answer: Score | Generation, columns: Columns) -> list[Any]:
    """The answer's shape, from which `_restore` knows what to take from the columns."""
    if isinstance(answer, Generation):
        columns["tokens"].append(np.array(answer.tokens, _KINDS["tokens"]))
        return [len(answer.tokens), answer.finish_reason]
    columns["logprobs"].append(np.array(answer.logprobs, _KINDS["logprobs"]))
    if answer.top is None:
        return [len(answer.logprobs), answer.greedy, 0]
    for name, values in (("top_ids", answer.top.ids), ("top_logprobs", answer.top.logprobs)):
        columns[name].append(np.ascontiguousarray(values, _KINDS[name]))
    return [len(answer.logprobs), answer.greedy, answer.top.ids.shape[1]]


def _restore(described: list[Any], columns: "dict[str, _Column]") -> Any:
    if len(described) == 2:
        count, reason = described
        return Generation(tuple(columns["tokens"].take(count).tolist()), reason)
    count, greedy, k = described
    logprobs = tuple(columns["logprobs"].take(count).tolist())
    lists = [columns[name].take(count * k).reshape(count, k) for name in ("top_ids", "top_logprobs")] if k else None
    return Score(logprobs, greedy, TopK(*lists) if lists else None)


class _Column:
    """Values given out from the front."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self._place = 0

    def take(self, count: int) -> npt.NDArray[Any]:
        self._place += count
        return self.values[self._place - count : self._place]
