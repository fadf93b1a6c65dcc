"""`determinism.json`: what each way of serving changes in each arm's answers."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.runs.files import read_record

DETERMINISM = "determinism.json"
WAYS = {
    "whole": "alone, in one piece",
    "repeat": "the same again",
    "batched": "all prompts at once",
    "shuffled": "all at once, in another order",
    "chunked": "alone, `chunked_prefill_size`",
    "prefix": "alone, first half in the prefix cache",
}


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
    """All ways of one arm; `error` is mean |Δ log-probability| of its `whole` against the first arm's, in nats.

    An arm that failed has the reason in `failure`, and no ways.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    backend: str
    ways: list[WayResult]
    error: float | None
    failure: str | None = None


class Made(BaseModel):
    """By which command, of which model and code, where and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    created: str
    command: str
    model: dict[str, Any]
    source: str
    """`attention.source.source_hash()`."""
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]


class Determinism(BaseModel):
    """The whole file: prompts of `tokens` tokens, chunks of `chunk`, arms in order, the baseline first.

    `made` is None in files of before it was noted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    made: Made | None = None
    model: str
    tokens: int
    chunk: int
    generated: int
    arms: list[ArmResult]


def read(path: Path) -> Determinism:
    """The record in `path`; `DataError` where it is missing, damaged, or of another version."""
    return read_record(Determinism, path)
