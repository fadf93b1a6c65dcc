"""`rate.json`: what was measured, kept as it comes, so that a command that was cut short is taken up again.

All arms of a *block* were sent the same requests at the same rate, by the same plan of moments, one arm after the
other. Where their servers were up at the same time, blocks of the several repeats began with another arm each, and
their numbers are paired by repeat.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.probes.measured import Measured, go_on
from sage_eval.runs.files import read_record, write_json

RATE = "rate.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Result(_Model):
    """One arm's answers in one block, each complete, in the order of the requests. Times in seconds."""

    seconds: float
    """From the first request to the last answer, as SGLang's load generator counts it."""
    input_tokens: int
    output_tokens: int
    ttft: list[float]
    """Time to first token of each request."""
    latency: list[float]
    """Time to the last token of each request."""
    itl: dict[str, float]
    """Time between tokens, of all requests: mean, p50, p95, p99; empty where each answer is a single token."""


class Block(_Model):
    """Arms that were sent the same requests: `rate` a second, or all at once (None)."""

    rate: float | None
    repeat: int
    seed: int
    arrivals: list[float]
    """Seconds after the first request at which each was to be sent."""
    sending: float
    """Seconds after which the load generator stopped: it waits once more after the last request."""
    results: dict[str, Result]
    interleaved: bool
    gpu_before: dict[str, Any] | None = None
    gpu_after: dict[str, Any] | None = None


class ArmRecord(_Model):
    """What an arm was told and what its server said of itself; `error` where it did not start or broke off."""

    arguments: dict[str, Any]
    role: Literal["baseline", "floor", "control", "candidate"]
    engine: dict[str, Any] = Field(default_factory=dict)
    command: str | None = None
    """That starts the same server by hand."""
    start_seconds: float | None = None
    coverage: dict[str, float] = Field(default_factory=dict)
    error: str | None = None


class Record(Measured):
    """The whole file."""

    schema_version: Literal[1] = 1
    arms: dict[str, ArmRecord] = Field(default_factory=dict)
    blocks: list[Block] = Field(default_factory=list)
    summary: dict[str, Any] = Field(default_factory=dict)

    def done(self, arm: str, rate: float | None, repeat: int) -> bool:
        """Whether `arm` has a result there."""
        return any(arm in block.results for block in self.blocks if (block.rate, block.repeat) == (rate, repeat))


def label(rate: float | None) -> str:
    """A rate in words: `4/s`, `all at once`."""
    return "all at once" if rate is None else f"{rate:g}/s"


def read(path: Path) -> Record:
    """The record in `path`; `DataError` where it is missing, damaged, or of another version."""
    return read_record(Record, path)


def resume(path: Path, new: Record) -> Record:
    """The record to go on with: `new`, or what `path` holds already of the same measurement.

    Raises `UsageError` where the file is of another model, machine, settings or attention code, or does not say of
    which code: its numbers would not compare.
    """
    if not path.exists() or not (old := read(path)).blocks:
        return new
    return go_on(path, old, new, ("model", "settings", "machine", "versions", "code"))


def write(path: Path, record: Record) -> None:
    """Write `record` with its summary in one step."""
    from sage_eval.probes.rate.summary import summarise

    record.summary = summarise(record)
    write_json(path, record.model_dump(mode="json"))
