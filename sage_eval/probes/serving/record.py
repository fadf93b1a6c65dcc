"""`serving.json`: what was measured, kept as it comes, so that a command that was cut short is taken up again.

A *cell* is a kind of work and a size. All arms of a *block* did the same cell in turn, round by round with the same
prompts, so their seconds are paired by position; arms of different blocks are not paired.

    prefill/L    one prompt of L tokens, one new token: time to first token
    packed/L     as many prompts of L tokens at once as make up `packed_tokens`, one new token each: throughput
    decode/B     B sequences at once, after a prompt of `decode_context` tokens each: time between tokens
    mixed/N      N requests of mixed lengths (see `mix`), all handed over at once: time until the last is answered

A *profile* is one run more of an arm in a cell, after all that is timed.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.probes.measured import Measured, go_on
from sage_eval.runs.files import read_record, write_json

SERVING, MEMORY = "serving.json", "memory.json"
Kind = Literal["prefill", "packed", "decode", "mixed"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cell(_Model):
    """One kind of work at one size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    size: int

    @property
    def name(self) -> str:
        """`prefill/1024`."""
        return f"{self.kind}/{self.size}"


class Result(_Model):
    """One arm in one block. `seconds` are per request or batch, for decode per step; one a round."""

    seconds: list[float]
    warm_up: float | None = None
    """The first run, in seconds, where it was left out of `seconds`."""
    memory: dict[str, int] = Field(default_factory=dict)
    """Bytes: `before_*` at rest, `peak_*` during the first run."""


class Block(_Model):
    """Arms that took turns in one cell: `requests` of `tokens` tokens each (decode: new tokens timed).

    Of a mixed cell `tokens` are those of all prompts together, and `new_tokens` those of all answers.
    """

    cell: Cell
    requests: int
    tokens: int
    new_tokens: int | None = None
    results: dict[str, Result]
    skipped: dict[str, str] = Field(default_factory=dict)
    interleaved: bool
    gpu_before: dict[str, Any] | None = None
    gpu_after: dict[str, Any] | None = None


class Kernel(_Model):
    """A kernel of the attention: `seconds` and `calls` of a prefill or of a decode step."""

    name: str
    seconds: float
    calls: float


class Times(_Model):
    """Whose the device's time was, in `seconds` of a prefill or of a decode step: attention, products, other, idle."""

    seconds: dict[str, float]
    by: Literal["launch", "name"]
    """How kernels found their part: by the layer that launched them, or many, as a graph replays them, by name."""
    guessed: float
    """The share of the busy time whose kernels' names had not been seen under a layer."""
    kernels: list[Kernel]
    """Of the attention, those with the most time."""


class Profile(_Model):
    """One profiled run of `arm`; `error` where it told nothing."""

    arm: str
    cell: Cell
    times: Times | None = None
    error: str | None = None


class ArmRecord(_Model):
    """What an arm was told and what its engine said of itself; `error` where it did not start or broke off."""

    arguments: dict[str, Any]
    engine: dict[str, Any] = Field(default_factory=dict)
    start_seconds: float | None = None
    memory: dict[str, int] = Field(default_factory=dict)
    coverage: dict[str, float] = Field(default_factory=dict)
    error: str | None = None


class Record(Measured):
    """The whole file."""

    schema_version: Literal[1] = 1
    kind: Literal["serving", "memory"]
    arms: dict[str, ArmRecord] = Field(default_factory=dict)
    blocks: list[Block] = Field(default_factory=list)
    profiles: list[Profile] = Field(default_factory=list)
    summary: dict[str, Any] = Field(default_factory=dict)

    def blocks_of(self, cell: Cell) -> list[Block]:
        """The blocks of `cell`, oldest first."""
        return [block for block in self.blocks if block.cell == cell]

    def done(self, arm: str, cell: Cell) -> bool:
        """Whether `arm` has a result in `cell`."""
        return any(arm in block.results for block in self.blocks_of(cell))

    def profiled(self, arm: str, cell: Cell) -> bool:
        """Whether `arm` has been profiled in `cell`, for what that told."""
        return any(profile.arm == arm and profile.cell == cell for profile in self.profiles)

    def typical(self, arm: str, kind: Kind) -> dict[int, float]:
        """Size → fastest seconds of `arm` so far."""
        times: dict[int, float] = {}
        for block in self.blocks:
            if block.cell.kind == kind and arm in block.results:
                best = min(block.results[arm].seconds)
                times[block.cell.size] = min(best, times.get(block.cell.size, best))
        return times


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
    return go_on(path, old, new, ("kind", "model", "settings", "machine", "versions", "code"))


def write(path: Path, record: Record) -> None:
    """Write `record` with its summary in one step."""
    from sage_eval.probes.serving.summary import summarise

    record.summary = summarise(record)
    write_json(path, record.model_dump(mode="json"))
