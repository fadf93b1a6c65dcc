"""A trace of SGLang's scheduler, as PyTorch's profiler writes it: what the device did, when, and for which layer.

On a GPU the work is kernels, copies and fills; a correlation id binds each to the call that launched it, and that call
lies inside the ranges that were open on the CPU then. Without a GPU the work is PyTorch's own operations, the outermost
ones, and each is its own launch. All times are microseconds since some start. Pure but for `read`.
"""

import bisect
import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sage_eval.engine.scheduler_profile import ATTENTION, LINEAR
from sage_eval.errors import DataError
from sage_eval.measure.serving.summary import Kernel, Profile

Event = dict[str, Any]
Kind = Literal["prefill", "decode"]
NEVER = float("inf")

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_CALLS = ("cuda_runtime", "cuda_driver")
_GRAPH_LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch")
_PRODUCTS = {f"aten::{name}" for name in ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "_scaled_mm")}
"""Matrix products outside of a linear layer, as the LM head's is."""
_PREFILL, _DECODE = "step[EXTEND", "step[DECODE"
"""How the names of SGLang's own ranges around a forward pass begin."""


class Work(NamedTuple):
    """One kernel, copy or operation."""

    name: str
    start: float
    end: float
    launched: float
    part: str | None
    """`attention`, `products` or `other`, by the layer of the launch; None for what a CUDA graph replays as a whole."""


class Trace(NamedTuple):
    """`works` by their start; `prefills` and `decodes` are the moments at which forward passes begin."""

    works: list[Work]
    prefills: list[float]
    decodes: list[float]


class Spans:
    """Stretches of time, overlapping or not; `moment in spans`.

    No thread needs to be distinguished: PyTorch's profiler records ranges and operations of the thread that started it
    alone, and that is the one from which SGLang's scheduler launches the whole forward pass.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        ordered = sorted(spans)
        self._starts = [start for start, _ in ordered]
        self._ends = list(accumulate((end for _, end in ordered), max))
        """The latest end of all spans that have begun."""

    def __contains__(self, moment: float) -> bool:
        begun = bisect.bisect_right(self._starts, moment)
        return begun > 0 and moment <= self._ends[begun - 1]

    def __bool__(self) -> bool:
        return bool(self._starts)


def read(folder: Path, label: str, *, gpu: bool) -> Trace:
    """The trace of the first rank that a profile with `label` left in `folder`. `DataError` where it tells nothing."""
    files = sorted(folder.glob(f"{label}-*TP-0*.trace.json.gz"))
    if not files:
        raise DataError("the profiler left no trace")
    try:
        with gzip.open(files[-1]) as file:
            return parse(json.load(file)["traceEvents"], gpu=gpu)
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"the profiler's trace is damaged ({error!r})") from error


def parse(events: Iterable[Event], *, gpu: bool) -> Trace:
    """The trace in `events` of Chrome's format. `DataError` where there should be a GPU's work and is none."""
    timed = [event for event in events if event.get("ph") == "X"]
    ranges = [event for event in timed if event.get("cat") == "user_annotation"]
    operations = [event for event in timed if event.get("cat") == "cpu_op"]
    if gpu and not any(event.get("cat") in _DEVICE for event in timed):
        raise DataError("the profiler saw no kernel: PyTorch has no CUPTI, or another tool holds it")
    attention = Spans(_span(event) for event in ranges if event["name"] == ATTENTION)
    products = Spans(_span(e) for e in [*ranges, *operations] if e["name"] == LINEAR or e["name"] in _PRODUCTS)

    works = []
    for event, launched, placed in _launched(timed, operations) if gpu else _outermost(operations):
        part = "attention" if launched in attention else "products" if launched in products else "other"
        # Without a single range of attention its layers ran inside a graph, and what is beside them tells nothing.
        works.append(Work(event["name"], *_span(event), launched, part if placed and attention else None))
    begins = [sorted(e["ts"] for e in ranges if e["name"].startswith(name)) for name in (_PREFILL, _DECODE)]
    return Trace(sorted(works, key=lambda work: work.start), *begins)


def window(trace: Trace, kind: Kind) -> tuple[list[Work], int]:
    """What was launched for a prefill, or for some decode steps and how many; by the launch, as launches run ahead.

    A prefill ends where SGLang begins a decode step, which it does even if one token was asked for. Requests that
    trickle in are prefilled between the decode steps of earlier ones: steps count from the last prefill on. The first
    of them is left out, as it waits for the prefill, and the last one begun, as its end is not known. `DataError`
    where nothing is left.
    """
    if kind == "prefill":
        begin = next(iter(trace.prefills), NEVER)
        end, steps = next((moment for moment in trace.decodes if moment > begin), NEVER), 1
    else:
        last = max(trace.prefills, default=-NEVER)
        begins = [moment for moment in trace.decodes if moment > last][1:] or [NEVER]
        begin, end, steps = begins[0], begins[-1], len(begins) - 1
    works = [work for work in trace.works if begin <= work.launched < end]
    if not works:
        raise DataError(f"the profiler's trace has no {kind} in it")
    return works, steps


def _launched(timed: list[Event], operations: list[Event]) -> Iterator[tuple[Event, float, bool]]:
    """The GPU's work, when it was launched, and whether that tells the layer, as the launch of a graph does not."""
    calls = {e["args"]["correlation"]: e for e in timed if e.get("cat") in _CALLS and "correlation" in e["args"]}
    # Second best: the operation that was running on the CPU, where the call itself was not recorded.
    owners = {e["args"]["External id"]: e for e in operations if "External id" in e.get("args", {})}
    for event in (event for event in timed if event.get("cat") in _DEVICE):
        about = event.get("args", {})
        call = calls.get(about.get("correlation")) or owners.get(about.get("External id"))
        replayed = about.get("graph node id") or (call and call["name"].startswith(_GRAPH_LAUNCHES))
        yield event, call["ts"] if call else event["ts"], bool(call and not replayed)


def _outermost(operations: list[Event]) -> Iterator[tuple[Event, float, bool]]:
    until = -NEVER
    for event in sorted(operations, key=lambda event: (event["ts"], -event["dur"])):
        start, end = _span(event)
        if start >= until:
            until = end
            yield event, start, True


def _span(event: Event) -> tuple[float, float]:
    return event["ts"], event["ts"] + event["dur"]


Learned = Mapping[str, Mapping[str, float]]
"""Kernel name → part → the share of that kernel's time which was the part's."""

TOLERATED = 0.01
"""The share of the busy time that names may decide without being mentioned, and without a run to learn them from."""
TOP = 6
MICRO = 1e-6
_GUESSES = {
    "attention": "attention|attn|attend|flash::|fmha|_fwd_kernel|_fwd_grouped|batchdecode|batchprefill",
    "products": "gemm|gemv|nvjet|cutlass|cublas|splitk|matmul",
}
"""Part and what its kernels' names contain; the first that fits, as FlashAttention is CUTLASS too."""


def times(trace: Trace, kind: Kind, learned: Learned | None = None) -> Profile:
    """Seconds of each part, of a whole prefill or a decode step. `DataError` where the trace has no such thing.

    Where work overlaps, what began first has the time. `idle` is the time from the first work's start to the last one's
    end in which the device had none.
    """
    works, steps = window(trace, kind)
    parts = dict.fromkeys(("attention", "products", "other"), 0.0)
    kernels: dict[str, list[float]] = defaultdict(list)
    guessed = named = 0.0
    for work, seconds in _alone(works):
        known: Mapping[str, float] = {work.part: 1.0} if work.part else (learned or {}).get(work.name, {})
        named += 0.0 if work.part else seconds
        guessed += 0.0 if known else seconds
        guess = (part for part, words in _GUESSES.items() if re.search(words, work.name, re.IGNORECASE))
        shares = known or {next(guess, "other"): 1.0}
        for part, share in shares.items():
            parts[part] += share * seconds
        if attention := shares.get("attention"):
            kernels[work.name].append(attention * seconds)
    busy = sum(parts.values())
    whole = (max(work.end for work in works) - works[0].start) * MICRO
    return Profile(
        seconds={part: seconds / steps for part, seconds in {**parts, "idle": whole - busy}.items()},
        by="name" if named > TOLERATED * busy else "launch",
        guessed=guessed / busy if busy else 0.0,
        kernels=[
            Kernel(name=name, seconds=sum(kernels[name]) / steps, calls=len(kernels[name]) / steps)
            for name in sorted(kernels, key=lambda name: -sum(kernels[name]))[:TOP]
        ],
    )


def learn(trace: Trace, kind: Kind) -> Learned:
    """What the kernels did in a trace without graphs, for `times` of one with them."""
    seen: dict[str, dict[str, float]] = {}
    for work, seconds in _alone(window(trace, kind)[0]):
        if work.part:
            parts = seen.setdefault(work.name, {})
            parts[work.part] = parts.get(work.part, 0.0) + seconds
    totals = {name: sum(parts.values()) for name, parts in seen.items()}
    return {
        name: {part: seconds / totals[name] for part, seconds in parts.items()}
        for name, parts in seen.items()
        if totals[name]
    }


def unplaced(trace: Trace, kind: Kind) -> float:
    """The share of the busy time whose layer the launches do not tell."""
    works = list(_alone(window(trace, kind)[0]))
    busy = sum(seconds for _, seconds in works)
    return sum(seconds for work, seconds in works if not work.part) / busy if busy else 0.0


def _alone(works: list[Work]) -> Iterator[tuple[Work, float]]:
    """Each work with the seconds in which no earlier one was running: together, the time the device was busy."""
    until = float("-inf")
    for work in works:
        yield work, max(0.0, work.end - max(work.start, until)) * MICRO
        until = max(until, work.end)
