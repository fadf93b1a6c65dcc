"""The arms' processes that are up, by name: those that fail are left out, the others go on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from sage_eval.errors import SageEvalError
from sage_eval.probes.client import Worker

Say = Callable[[str], None]
W = TypeVar("W", bound=Worker)


class BystanderError(SageEvalError):
    """What failed is no arm, but something that all arms need."""


class Noted(Protocol):
    """What a record keeps of an arm."""

    coverage: dict[str, float]
    """Tokens by "phase/kernel", of all calls."""
    error: str | None


def failed(notes: Mapping[str, Noted], names: Iterable[str]) -> bool:
    """Whether an arm that a command asked for has failed. A record's other arms are of earlier commands."""
    return any(notes[name].error for name in names if name in notes)


class Crew(Generic[W]):
    """`notes` are the arms of a record, in which each arm has its place before it is used; `say` is told of errors."""

    def __init__(self, notes: Mapping[str, Noted], say: Say) -> None:
        self._notes, self._say = notes, say
        self._workers: dict[str, W] = {}
        self._covered: dict[str, dict[str, float]] = {}
        """Of earlier calls: what an engine counts begins with its start."""

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def only(self, names: Sequence[str]) -> None:
        """End every one but those of `names`."""
        for name in [name for name in self._workers if name not in names]:
            self.end(name)

    def end(self, name: str) -> None:
        """End an arm's process, which is not used any more."""
        self._workers.pop(name).close()

    def close(self) -> None:
        """End them all."""
        self.only(())

    def guarded(self, name: str, action: Callable[[W], object]) -> None:
        """Do `action` with an arm's worker; an arm that fails is noted and left out from then on, the others go on.

        A `BystanderError` says nothing of the arm and is raised.
        """
        if name not in self._workers:
            return
        try:
            action(self._workers[name])
        except BystanderError:
            raise
        except SageEvalError as error:
            self._say(str(error))
            self._notes[name].error = str(error)
            self.end(name)

    def _begin(self, name: str, worker: W) -> dict[str, float]:
        """Take up the worker of an arm. Returns the coverage that earlier calls noted, to which its own is added."""
        known = self._notes.get(name)
        self._workers[name], self._covered[name] = worker, known.coverage if known else {}
        return self._covered[name]

    def _cover(self, name: str, now: Mapping[str, float]) -> None:
        """Note what an arm has counted since its start."""
        earlier = self._covered[name]
        totals = {kernel: round(earlier.get(kernel, 0) + now.get(kernel, 0)) for kernel in {*earlier, *now}}
        self._notes[name].coverage = dict(sorted(totals.items()))
