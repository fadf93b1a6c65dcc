"""A trace of SGLang's scheduler, as PyTorch's profiler writes it: what the device did, when, and who launched it.

On a GPU the work is kernels, copies and fills; each is bound to the call that launched it by a correlation id, and that
call lies inside the ranges that were open on the CPU then. Without a GPU the work is PyTorch's own operations, the
outermost ones, and each is its own launch. All times are microseconds since some start. Pure but for `read`.
"""

import bisect
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sage_eval.engine.scheduler_profile import ATTENTION, LINEAR
from sage_eval.errors import DataError

Event = dict[str, Any]

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_CALLS = ("cuda_runtime", "cuda_driver")
_GRAPH_LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch")
_PRODUCTS = {f"aten::{name}" for name in ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "_scaled_mm")}
"""Matrix products outside of a linear layer, as the LM head's is."""
_PREFILL, _DECODE = "step[EXTEND", "step[DECODE"
"""How the names of SGLang's own ranges around a forward pass begin."""


class Spans:
    """Stretches of time, overlapping or not; `moment in spans`.

    Threads need not be told apart: PyTorch's profiler records ranges and operations of the thread that started it
    alone, and that is the one from which SGLang's scheduler launches the whole forward pass.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        merged: list[list[float]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._starts, self._ends = [start for start, _ in merged], [end for _, end in merged]

    def __contains__(self, moment: float) -> bool:
        place = bisect.bisect_right(self._starts, moment) - 1
        return place >= 0 and moment <= self._ends[place]

    def __bool__(self) -> bool:
        return bool(self._starts)


class Work(NamedTuple):
    """One kernel, copy or operation."""

    name: str
    start: float
    end: float
    launched: float
    placed: bool
    """Whether `launched` tells the layer: not for what a CUDA graph replays, which is launched as a whole."""


class Trace(NamedTuple):
    """`works` by their start; `prefills` and `decodes` are the moments at which forward passes begin."""

    works: list[Work]
    attention: Spans
    products: Spans
    prefills: list[float]
    decodes: list[float]


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
    device = [event for event in timed if event.get("cat") in _DEVICE]
    if gpu and not device:
        raise DataError("the profiler saw no kernel: PyTorch found no CUPTI, or another tool holds it")
    works = _launched(device, timed, operations) if gpu else _outermost(operations)
    begins = {name: sorted(e["ts"] for e in ranges if e["name"].startswith(name)) for name in (_PREFILL, _DECODE)}
    return Trace(
        works=sorted(works, key=lambda work: work.start),
        attention=Spans(_span(event) for event in ranges if event["name"] == ATTENTION),
        products=Spans(
            _span(event) for event in [*ranges, *operations] if event["name"] == LINEAR or event["name"] in _PRODUCTS
        ),
        prefills=begins[_PREFILL],
        decodes=begins[_DECODE],
    )


def window(trace: Trace, kind: Literal["prefill", "decode"]) -> tuple[list[Work], int]:
    """What was launched for a prefill, or for some decode steps and how many; by the launch, as launches run ahead.

    A prefill ends where SGLang begins a decode step, which it does even if one token was asked for. Requests that
    trickle in are prefilled between the decode steps of earlier ones: steps count from the last prefill on. The first
    of them is left out, as it waits for the prefill, and the last one begun, as its end is not known. `DataError`
    where nothing is left.
    """
    never = float("inf")
    if kind == "prefill":
        begin = next(iter(trace.prefills), never)
        end, steps = next((moment for moment in trace.decodes if moment > begin), never), 1
    else:
        last = max(trace.prefills, default=-never)
        begins = [moment for moment in trace.decodes if moment > last][1:] or [never]
        begin, end, steps = begins[0], begins[-1], len(begins) - 1
    works = [work for work in trace.works if begin <= work.launched < end]
    if not works:
        raise DataError(f"the profiler's trace has no {kind} in it")
    return works, steps


def _launched(device: list[Event], timed: list[Event], operations: list[Event]) -> Iterator[Work]:
    calls = {e["args"]["correlation"]: e for e in timed if e.get("cat") in _CALLS and "correlation" in e["args"]}
    # Second best: the operation that was running on the CPU, where the call itself was not recorded.
    owners = {e["args"]["External id"]: e for e in operations if "External id" in e.get("args", {})}
    for event in device:
        start, end = _span(event)
        about = event.get("args", {})
        call = calls.get(about.get("correlation")) or owners.get(about.get("External id"))
        replayed = about.get("graph node id") or (call and call["name"].startswith(_GRAPH_LAUNCHES))
        launched = call["ts"] if call else start
        yield Work(event["name"], start, end, launched, placed=bool(call and not replayed))


def _outermost(operations: list[Event]) -> Iterator[Work]:
    until = float("-inf")
    for event in sorted(operations, key=lambda event: (event["ts"], -event["dur"])):
        start, end = _span(event)
        if start >= until:
            until = end
            yield Work(event["name"], start, end, start, placed=True)


def _span(event: Event) -> tuple[float, float]:
    return event["ts"], event["ts"] + event["dur"]
