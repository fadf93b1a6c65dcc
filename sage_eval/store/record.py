"""The file that every measurement leaves: provenance, settings, arms and rows, kept as they come.

A record is written again whenever something is finished. The same command takes it up: `resume` adds rows to a record
of the same provenance, machine and settings, and refuses any other one. Summaries are computed when a record is looked
at and are never stored. Schema 1, in which each instrument had a file of its own form, is read through `store.old`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.errors import DataError, UsageError
from sage_eval.store.files import check_version, read_json, validate, write_json
from sage_eval.store.provenance import Provenance

SCHEMA_VERSION: Literal[2] = 2

Role = Literal["baseline", "candidate", "floor", "control", "stress"]
R = TypeVar("R", bound=BaseModel)


class Row(BaseModel):
    """What the rows of all records have in common: no field that is not known."""

    model_config = ConfigDict(extra="forbid")


class ArmEntry(BaseModel):
    """What an arm was told, what its engine said of itself, and what it counted; `error` where it broke off."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    arguments: dict[str, Any]
    """Of `engine.options.ArmOptions.from_arguments`, those that differ between the arms."""
    engine: dict[str, Any] = Field(default_factory=dict)
    memory: dict[str, int] = Field(default_factory=dict)
    """Bytes, as the scheduler's own process counts them."""
    coverage: dict[str, float] = Field(default_factory=dict)
    """Tokens by "phase/kernel", over all commands."""
    start_seconds: float | None = None
    command: str | None = None
    """Starts the same server by hand."""
    error: str | None = None


class Record(BaseModel, Generic[R]):
    """One measurement. `R` is the instrument's row."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2] = SCHEMA_VERSION
    kind: str
    provenance: Provenance
    settings: dict[str, Any]
    """What all arms share and what decides the numbers."""
    baseline: str | None = None
    arms: dict[str, ArmEntry] = Field(default_factory=dict)
    rows: list[R] = Field(default_factory=list)

    def failed(self, names: Iterable[str]) -> bool:
        """Whether one of the arms `names`, those that a command asked for, has failed."""
        return any(self.arms[name].error for name in names if name in self.arms)


def read(row: type[R], path: Path, kind: str) -> Record[R]:
    """The record of a `kind` in `path`, of any schema; `DataError` where it is missing, damaged or something else."""
    from sage_eval.store.old import read_lines, upgrade

    value = read_lines(path) if path.suffix == ".jsonl" else read_json(path)
    check_version(path, value, 1, SCHEMA_VERSION)
    if value["schema_version"] == 1:
        try:
            value = upgrade(kind, value)
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}): delete it and measure again") from error
    if value.get("kind") != kind:
        raise DataError(f"{path} holds a record of {value.get('kind')!r}, not of {kind!r}")
    return validate(Record[row], value, path)  # type: ignore[valid-type]


def write(path: Path, record: Record[Any]) -> None:
    """Write `record` in one step."""
    write_json(path, record.model_dump(mode="json"))


def resume(row: type[R], path: Path, new: Record[R], *, flag: str = "--output") -> Record[R]:
    """The record to add rows to: `new`, or what `path` holds of the same measurement.

    Raises `UsageError` that names the difference where the file is of another model, machine, version, code, or of
    other settings: its numbers would not compare. `flag` is that which names the file.
    """
    if not path.exists() or not (old := read(row, path, new.kind)).rows:
        return new
    # What an earlier version did not note of the model is no difference.
    model = new.provenance.model | old.provenance.model
    commands = list(dict.fromkeys([*old.provenance.commands, *new.provenance.commands]))
    provenance = old.provenance.model_copy(update={"model": model, "commands": commands})
    for name, before, now in (
        ("settings", old.settings, new.settings),
        *((name, value, new.provenance.comparable()[name]) for name, value in provenance.comparable().items()),
    ):
        if before != now:
            raise UsageError(f"{path} was measured with another {_difference(name, before, now)}: choose {flag}")
    return old.model_copy(update={"provenance": provenance, "baseline": new.baseline})


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in before | now if before.get(key) != now.get(key))
        return f"{name} ({key}: {before.get(key)!r}, now {now.get(key)!r})"
    return name
