"""Whose the device's time was: attention, matrix products, everything else, or nobody's. Pure functions of a trace.

Attention is whatever was launched inside SGLang's attention layer, by any backend under any name: quantising, gathering
and, where the backend does it, writing K and V into the cache. Matrix products are the linear layers, with quantisation
and all-reduce if they have any, and the LM head. What a CUDA graph replays has no launch of its own: there a kernel's
name decides, by what kernels of that name did when the same arm ran without graphs; one that did not occur then is
guessed at by parts of its name, and how much that was is said.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

from sage_eval.probes.serving.record import Kernel, Times
from sage_eval.probes.serving.trace import Trace, Work, window

Kind = Literal["prefill", "decode"]
Learned = Mapping[str, Mapping[str, float]]
"""Kernel name → part → the share of that kernel's time which was the part's."""

TOLERATED = 0.01
"""The share of the busy time that names may decide without a word of it, and without a run to learn them from."""
TOP = 6
MICRO = 1e-6
_GUESSES = (
    (
        "attention",
        (
            "attention",
            "attn",
            "attend",
            "flash::",
            "fmha",
            "_fwd_kernel",
            "_fwd_grouped",
            "batchdecode",
            "batchprefill",
        ),
    ),
    ("products", ("gemm", "gemv", "nvjet", "cutlass", "cublas", "splitk", "matmul")),
)
"""Part and what its kernels' names contain, in lower case; the first that fits, as FlashAttention is CUTLASS too."""


def times(trace: Trace, kind: Kind, learned: Learned | None = None) -> Times:
    """Seconds of each part, of a whole prefill or a decode step. `DataError` where the trace has no such thing.

    Where work overlaps, what began first has the time. `idle` is the time from the first work's start to the last one's
    end in which the device had none.
    """
    works, steps = window(trace, kind)
    parts = dict.fromkeys(("attention", "products", "other"), 0.0)
    kernels: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    guessed = named = 0.0
    for work, seconds in _alone(works):
        found = _by_launch(trace, work)
        if found is None:
            named += seconds
            known = (learned or {}).get(work.name)
            guessed += 0.0 if known else seconds
            found = known or {_guess(work.name): 1.0}
        for part, share in found.items():
            parts[part] += share * seconds
        if found.get("attention"):
            kernels[work.name] += found["attention"] * seconds
            calls[work.name] += 1
    busy = sum(parts.values())
    whole = (max(work.end for work in works) - works[0].start) * MICRO
    return Times(
        seconds={part: seconds / steps for part, seconds in {**parts, "idle": whole - busy}.items()},
        by="name" if named > TOLERATED * busy else "launch",
        guessed=guessed / busy if busy else 0.0,
        kernels=[
            Kernel(name=name, seconds=kernels[name] / steps, calls=calls[name] / steps)
            for name in sorted(kernels, key=lambda name: -kernels[name])[:TOP]
        ],
    )


def learn(trace: Trace, kind: Kind) -> Learned:
    """What the kernels did in a trace without graphs, for `times` of one with them."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for work, seconds in _alone(window(trace, kind)[0]):
        for part, share in (_by_launch(trace, work) or {}).items():
            found[work.name][part] += share * seconds
    totals = {name: sum(parts.values()) for name, parts in found.items()}
    return {
        name: {part: seconds / totals[name] for part, seconds in parts.items()}
        for name, parts in found.items()
        if totals[name]
    }


def unplaced(trace: Trace, kind: Kind) -> float:
    """The share of the busy time whose layer the launches do not tell."""
    works = list(_alone(window(trace, kind)[0]))
    busy = sum(seconds for _, seconds in works)
    return sum(seconds for work, seconds in works if _by_launch(trace, work) is None) / busy if busy else 0.0


def _alone(works: list[Work]) -> Iterator[tuple[Work, float]]:
    """Each work with the seconds in which no earlier one was running: together, the time the device was busy."""
    until = float("-inf")
    for work in works:
        yield work, max(0.0, work.end - max(work.start, until)) * MICRO
        until = max(until, work.end)


def _by_launch(trace: Trace, work: Work) -> Mapping[str, float] | None:
    # Without a single range of attention its layers ran inside a graph, and what is beside them tells nothing.
    if not work.placed or not trace.attention:
        return None
    if work.launched in trace.attention:
        return {"attention": 1.0}
    return {"products" if work.launched in trace.products else "other": 1.0}


def _guess(name: str) -> str:
    lower = name.lower()
    return next((part for part, words in _GUESSES if any(word in lower for word in words)), "other")
