"""What a serving record says of memory. Pure functions."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from sage_eval.measure.serving.summary import Served, skipped
from sage_eval.render.table import MISSING, Table
from sage_eval.store.record import ArmEntry, Record


class Largest(NamedTuple):
    """`tokens` of one sequence, what bounds them, and the terms of the formula in bytes.

    Where what was measured does not tell, `tokens` and `transient` are None and `bound` is "chunk".
    """

    tokens: int | None
    bound: Literal["memory", "model", "chunk"]
    resting: int
    transient: int | None
    per_token: int
    free: int
    measured: int
    """The longest prefill that was measured, in tokens; beyond it the transient bytes are extrapolated."""


def largest(record: Record[Served], arm: str) -> Largest | None:
    """By `FORMULA`; None where the record lacks a term, as it does without a GPU.

    A prompt is computed chunk by chunk. Up to a chunk the peak grows with the prompt's activations, beyond it hardly at
    all, so a line through lengths within a chunk says nothing of longer prompts: beyond what was measured, and beyond
    a chunk, at least two lengths of a whole chunk or more are needed. The model's longest sequence is the other bound.
    """
    entry = record.arms[arm]
    memory = entry.memory
    rows = [row for row in record.rows if row.arm == arm and row.work.kind == "prefill"]
    memories = {row.work.size: row.memory for row in rows if "peak_allocated" in row.memory}
    if not memories or not {"allocated", "device_free", "beyond_torch"} <= memory.keys():
        return None
    cache = memory["kv_cache"]
    # Rows of another command may be of an engine with another cache.
    rests = [each["before_allocated"] - each.get("kv_cache", cache) for each in memories.values()]
    resting = max(memory["allocated"] - cache, *rests) + memory["beyond_torch"]
    transients = {size: each["peak_allocated"] - each["before_allocated"] for size, each in memories.items()}
    each, free = per_token(entry), memory["device_free"]
    most = free // each
    chunk = int(entry.engine.get("chunked_prefill_size") or 0)
    within_chunk = chunk > 0 and sum(size >= chunk for size in memories) < 2
    known = min(most, max(*memories, chunk)) if within_chunk else most
    low, high = 0, known
    while low < high:  # the greatest that fits, as what is needed never falls
        middle = (low + high + 1) // 2
        fits = resting + transient(transients, middle) + middle * each <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    positions = int(record.provenance.model.get("max_position_embeddings") or most + 1)
    if low == known < min(most, positions):
        return Largest(None, "chunk", resting, None, each, free, max(memories))
    tokens = min(positions, low)
    bound: Literal["memory", "model"] = "model" if positions <= low else "memory"
    return Largest(tokens, bound, resting, transient(transients, tokens), each, free, max(memories))


def transient(measured: Mapping[int, int], tokens: int) -> int:
    """Bytes by which a prefill of `tokens` peaks above rest, from {tokens: bytes} of at least one.

    Between the measured lengths on a straight line, beyond them along the last two (from nothing where only one was
    measured), and never less for more tokens.
    """
    sizes = np.array(sorted(measured), dtype=float)
    peaks = np.maximum.accumulate([measured[int(size)] for size in sizes]).astype(float)
    if tokens <= sizes[-1]:
        return round(float(np.interp(tokens, sizes, peaks)))
    before, less = (sizes[-2], peaks[-2]) if len(sizes) > 1 else (0.0, 0.0)
    return round(float(peaks[-1] + (peaks[-1] - less) / (sizes[-1] - before) * (tokens - sizes[-1])))


def per_token(arm: ArmEntry) -> int:
    """Bytes of the KV cache for a token. The pool has a page more than it counts, which padding writes to."""
    return round(arm.memory["kv_cache"] / (arm.memory["kv_tokens"] + int(arm.engine.get("page_size") or 1)))


SAME_CACHE = (
    "The KV cache takes the same bytes per token in every arm: SageAttention does not shrink it. It quantises K and V "
    "for the time of a kernel, and holds those copies meanwhile."
)
PEAK = (
    "*Transient* is a prefill's peak above rest. Where another layer needs more than the attention does, copies of K "
    "and V hide under that peak: no difference here does not mean that there are none."
)
ON_CPU = "Without a GPU these are resident bytes of the scheduler process, which hold more than tensors."
FORMULA = (
    "Derived, not run: the most tokens n of one sequence for which *at rest* + *transient*(n) + n × *bytes per token* "
    "is not more than *free*, which is the device's memory before any engine. *At rest* is weights, graphs, buffers, "
    "and CUDA's own; fragments of PyTorch's allocator are not counted."
)


def memory(record: Record[Served]) -> Iterator[str | Table]:
    """Tables of what came up: at rest, in a prefill, and the largest context."""
    each = {name: per_token(arm) for name, arm in record.arms.items() if arm.memory}
    if each:
        header = ("arm", "weights, MiB", "KV cache, MiB", "its tokens", "bytes per token", "graphs and buffers, MiB")
        yield Table("Memory at rest", header, [_resting(record, name, each[name]) for name in each])
        yield from _transients(record)
    if limits := {name: limit for name in record.arms if (limit := largest(record, name))}:
        lines = [[name, *_limit(limit)] for name, limit in limits.items()]
        terms = ("free, MiB", "at rest, MiB", "transient then, MiB", "bytes per token")
        bounds = ("tokens of one sequence", "bound by")
        yield Table("The largest context that fits", ("arm", *terms, *bounds), lines, [FORMULA])
    if len(each) > 1 and len(set(each.values())) == 1:
        yield SAME_CACHE


def _resting(record: Record[Served], name: str, per_token: int) -> list[str]:
    held = record.arms[name].memory
    weights, cache = held["weights"], held["kv_cache"]
    rest = held["allocated"] - weights - cache if "allocated" in held else None
    return [name, _mib(weights), _mib(cache), f"{held['kv_tokens']:,}", f"{per_token:,}", _mib(rest)]


def _transients(record: Record[Served]) -> Iterator[Table]:
    """Peaks of prefills; *beyond* is against the baseline of the same block, whose own row comes once per length."""
    rows = [row for row in record.rows if row.work.kind == "prefill" and row.memory]
    rows.sort(key=lambda row: row.work.size)
    bases = {row.block: row for row in rows if row.arm == record.baseline}
    first = {base.cell: base for base in reversed(list(bases.values()))}
    device = any("peak_allocated" in row.memory for row in rows)
    names = ("peak_allocated", "peak_reserved") if device else ("peak_rss",)
    lines = []
    for row in rows:
        own, base, beyond = _transient(row), bases.get(row.block), MISSING
        if row.arm != record.baseline and base and own is not None and (other := _transient(base)) is not None:
            beyond = f"{(own - other) / 2**20:+,.1f}"
        if row.arm != record.baseline or row is first[row.cell]:
            peaks = [_mib(row.memory.get(name)) for name in names]
            lines.append([f"{row.work.size:,}", row.arm, *peaks, _mib(own), beyond])
    if lines:
        peaks = [f"{name.replace('_', ' ')}, MiB" for name in names]
        header = ("input tokens", "arm", *peaks, "transient, MiB", "beyond the baseline's, MiB")
        notes = [PEAK, *[ON_CPU] * (not device), *skipped(record, "prefill", rows)]
        yield Table("Memory of a prefill", header, lines, notes, names=2)


def beyond(record: Record[Served]) -> dict[str, tuple[int, int]]:
    """Arm → tokens of its longest prefill beside the baseline, and by how many bytes its peak is the higher."""
    rows = sorted((row for row in record.rows if row.work.kind == "prefill"), key=lambda row: row.work.size)
    bases = {row.block: own for row in rows if row.arm == record.baseline and (own := _transient(row)) is not None}
    return {
        row.arm: (row.work.size, own - bases[row.block])
        for row in rows
        if row.block in bases and row.arm != record.baseline and (own := _transient(row)) is not None
    }


def _transient(row: Served) -> int | None:
    """Bytes of the peak above rest."""
    for name in ("allocated", "rss"):
        if f"peak_{name}" in row.memory:
            return row.memory[f"peak_{name}"] - row.memory[f"before_{name}"]
    return None


def _limit(limit: Largest) -> list[str]:
    terms = [*map(_mib, (limit.free, limit.resting, limit.transient)), f"{limit.per_token:,}"]
    if limit.tokens is None:
        why = f"no two prompts of a whole chunk were measured, the longest has {limit.measured:,} tokens"
        return [*terms, MISSING, f"not derived: {why}"]
    bound = "the model's longest sequence" if limit.bound == "model" else "the GPU's memory"
    beyond = f", extrapolated beyond {limit.measured:,} tokens" if limit.tokens > limit.measured else ""
    return [*terms, f"{limit.tokens:,}", bound + beyond]


def _mib(value: int | None) -> str:
    return MISSING if value is None else f"{value / 2**20:,.1f}"
