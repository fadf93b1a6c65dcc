"""The one turn-taker: which arms' workers share a GPU, in which order they work, and for how long.

Arms run in groups of as many engines as fit, the baseline in each of them, so that what is compared took turns under
the same conditions. An arm that fails is noted in its entry and left out from then on; the others go on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

from sage_eval.arms import gpu
from sage_eval.arms.worker import Worker
from sage_eval.engine.options import RESERVED_TOKENS
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.store.record import ArmEntry

Say = Callable[[str], None]
T = TypeVar("T")
W = TypeVar("W", bound=Worker)

WORKSPACE = 5 << 30
"""Bytes an engine needs beside weights and cache: CUDA context, graphs, activations of one chunk."""


class SharedError(SageEvalError):
    """A shared dependency failed, not an arm."""

    exit_code = 1


class Turns(Generic[W]):
    """The workers of the arms `names`, a group at a time. A context manager that ends them all.

    `entries` are a record's arms: each has its place there before it is started. `start(name)` makes an arm's worker,
    which begins in the background. `resident` engines share the GPU, and `total` seconds are all there are, by `clock`.
    """

    def __init__(
        self,
        names: Sequence[str],
        baseline: str,
        entries: Mapping[str, ArmEntry],
        start: Callable[[str], W],
        say: Say,
        *,
        resident: int = 1,
        total: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.baseline, self.entries, self.say, self.now = baseline, entries, say, clock
        self._names, self._start, self._resident = names, start, resident
        self._total, self._end = total, clock() + total if total else float("inf")
        self._workers: dict[str, W] = {}
        self._covered: dict[str, dict[str, float]] = {}
        """Of earlier commands: what an engine counts begins with its start."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep(())

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def __getitem__(self, name: str) -> W:
        return self._workers[name]

    def groups(self) -> list[list[str]]:
        """The arms' names in groups of as many as are resident, the baseline first in each; one by one for 1."""
        others = [name for name in self._names if name != self.baseline]
        if self._resident < 2:
            return [[self.baseline], *([name] for name in others)]
        size = self._resident - 1
        return [[self.baseline, *others[i : i + size]] for i in range(0, len(others), size)] or [[self.baseline]]

    def up(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self._workers]

    def begin(self, names: Sequence[str], *steps: Callable[[W], Any]) -> None:
        """Start those of `names` that are not up, at the same time, and take each of `steps` with one after the other.

        Raises `SageEvalError` where the baseline does not come up; any other arm is noted and left out.
        """
        new = [name for name in names if name not in self._workers]
        for name in new:
            self._workers[name] = self._start(name)
            self._covered[name] = dict(self.entries[name].coverage)
            self.entries[name].error = None
        if new:
            self.say(f"starting {', '.join(new)}")
        for step in steps:
            for name in new:
                self.guarded(name, step)
        if self.baseline in new and (error := self.entries[self.baseline].error):
            raise SageEvalError(f"the baseline did not start: {error}")

    def keep(self, names: Sequence[str]) -> None:
        """End every worker but those of `names`; they end at the same time."""
        leaving = [name for name in self._workers if name not in names]
        for name in leaving:
            self._workers[name].dismiss()
        for name in leaving:
            self.end(name)

    def end(self, name: str) -> None:
        """End an arm's worker, which is not used any more."""
        self._workers.pop(name).close()

    def guarded(self, name: str, action: Callable[[W], Any]) -> None:
        """Do `action` with an arm's worker; an arm that fails is noted and left out from then on, the others go on.

        A `SharedError` says nothing of the arm and is raised.
        """
        if name not in self._workers:
            return
        try:
            action(self._workers[name])
        except SharedError:
            raise
        except SageEvalError as error:
            self.say(str(error))
            self.entries[name].error = str(error)
            self.end(name)

    def each(self, names: Sequence[str], action: Callable[[W], T]) -> dict[str, T]:
        """What `action` returns for each arm in turn; an arm that fails is missing (see `guarded`)."""
        found: dict[str, T] = {}
        for name in names:
            self.guarded(name, lambda worker: found.update({worker.name: action(worker)}))
        return found

    def cover(self, name: str, counted: Mapping[str, float]) -> None:
        """Note what an arm has counted since its start, added to what earlier commands noted."""
        earlier = self._covered[name]
        totals = {kernel: round(earlier.get(kernel, 0) + counted.get(kernel, 0)) for kernel in {*earlier, *counted}}
        self.entries[name].coverage = dict(sorted(totals.items()))

    def left(self) -> float:
        """Seconds; less than none where more than the total were taken."""
        return self._end - self.now()

    def over(self, coming: float = 0.0, what: str = "what follows") -> bool:
        """Whether the time is, or would be in `coming` seconds; people are told so."""
        if coming < self.left():
            return False
        self.say(f"{what} does not fit into the {self._total:g} s: repeat the command to go on")
        return True


def rotated(names: Sequence[str], by: int) -> list[str]:
    """`names` beginning with another one each time."""
    shift = by % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


def fitting(sizes: Mapping[str, Any], cache_tokens: int) -> int:
    """How many engines of a model (`sizes` as of `shape.describe`) with so large a cache fit; 1 without a GPU."""
    if (card := gpu.state()) is None or "free_mib" not in card:
        return 1
    if not {"weight_bytes", "kv_bytes_per_token"} <= sizes.keys():
        raise UsageError("this model's size is not known from its configuration: say --resident 1, or how many fit")
    each = sizes["weight_bytes"] + sizes["kv_bytes_per_token"] * cache_tokens + WORKSPACE
    return max(1, int((card["free_mib"] << 20) // each))


FRACTION = 0.85
OWN = ("mem_fraction_static", "max_total_tokens")
"""Arguments of SGLang by which a user shares a card out by hand."""


def share(free: int, engines: int, sizes: Mapping[str, Any], window: int, gpus: int = 1) -> dict[str, Any]:
    """SGLang's arguments for each of `engines` equal engines that start together on a card with `free` bytes.

    `sizes` are those of the model (`arms.shape.describe`), spread over `gpus` cards; `window` is the longest prompt in
    tokens, which each cache must hold. Raises `UsageError` that says how many engines fit.

    SGLang counts the bytes that are free when an engine starts, keeps 1 - `mem_fraction_static` of them back, and makes
    its cache of what is left once its weights are loaded. So small fractions do not add up to a card: who starts last
    has a fraction of a rest. A cache of a fixed number of tokens does. It is counted for the worst order: an engine
    that saw the card empty and is the last to make its cache.
    """
    if engines < 2:
        return {}
    found = _tokens(free, engines, sizes, gpus)
    if found < (wanted := window + RESERVED_TOKENS):
        fit = next((n for n in range(engines - 1, 1, -1) if _tokens(free, n, sizes, gpus) >= wanted), 1)
        raise UsageError(
            f"{engines} engines of this model do not fit onto a card with {free / 2**30:.0f} GiB free: each would hold "
            f"{max(0, found):,} tokens, and prompts have up to {window:,}; {fit} fit: give a smaller --parallel, or a "
            "smaller max_length in --model-args"
        )
    return {"mem_fraction_static": FRACTION, "max_total_tokens": found}


def _tokens(free: int, engines: int, sizes: Mapping[str, Any], gpus: int) -> int:
    """Tokens of cache for each engine; less than none where not even the weights fit."""
    weights, token = sizes["weight_bytes"] / gpus, sizes["kv_bytes_per_token"] / gpus
    last = (FRACTION * free - (engines - 1) * WORKSPACE) / engines - weights
    return int(min(last, free / engines - weights - WORKSPACE) // token)
