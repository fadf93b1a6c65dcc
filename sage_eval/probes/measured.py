"""What the records of benchmarks have in common, and whether two of them are of the same measurement."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from sage_eval.errors import UsageError


class Measured(BaseModel):
    """What was measured, where, when, and by which commands, a line each."""

    model_config = ConfigDict(extra="forbid")

    created: str
    command: str
    baseline: str
    model: dict[str, Any]
    settings: dict[str, Any]
    """What all arms share; a second call with other ones is refused."""
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]
    code: str | None = None
    """`attention.source.source_hash()`; None in files of before it was noted."""

    @property
    def machine(self) -> dict[str, Any]:
        """What makes times comparable; another machine of the same make is none."""
        return {"devices": self.devices} | {name: self.host.get(name) for name in ("cpu", "cores")}


M = TypeVar("M", bound=Measured)


def go_on(where: object, old: M, new: M, names: Sequence[str]) -> M:
    """`old`, which is stored at `where`, for the command of `new` to add to.

    Raises `UsageError` where one of the fields `names` differs: the numbers would not compare.
    """
    commands = "\n".join(dict.fromkeys([*old.command.splitlines(), new.command]))
    # What an earlier version did not note of the model is no difference.
    old = old.model_copy(update={"model": new.model | old.model, "command": commands, "baseline": new.baseline})
    for name in names:
        before, now = getattr(old, name), getattr(new, name)
        if before != now:
            raise UsageError(f"{where} was measured with another {_difference(name, before, now)}: choose --output")
    return old


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in before | now if before.get(key) != now.get(key))
        return f"{name} ({key}: {before.get(key)!r}, now {now.get(key)!r})"
    return name
