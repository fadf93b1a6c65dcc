"""The longest sequence that fits on the card for an arm, derived from what was measured. Pure functions.

    resting + transient(n) + n × bytes a token ≤ free

resting       bytes that an engine holds without a prompt, its KV cache aside: weights, graphs and buffers by PyTorch's
              count, and beyond that count CUDA's context and libraries
transient(n)  bytes by which a prefill of n tokens peaks above rest, in whatever layer that is: between the measured
              lengths on a straight line, beyond them along the last two (from nothing where only one was measured),
              never less for more tokens
free          bytes of the device before any engine was up

A prompt is computed chunk by chunk. Up to a chunk the peak grows with the prompt's activations, beyond it hardly at
all: a line through lengths within a chunk says nothing of longer prompts. Beyond what was measured, and beyond a chunk,
at least two lengths of a whole chunk or more are needed.

The model's own longest sequence is the other bound. What PyTorch's allocator loses by fragments is not counted, nor are
SGLang's tables of some bytes a token.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from sage_eval.probes.serving.record import ArmRecord, Record


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


def largest(record: Record, arm: str) -> Largest | None:
    """None where the record lacks a term, as it does without a GPU."""
    memory = record.arms[arm].memory
    if not {"allocated", "device_free", "beyond_torch"} <= memory.keys():
        return None
    results = {
        block.cell.size: block.results[arm].memory
        for block in record.blocks
        if block.cell.kind == "prefill" and arm in block.results and "peak_allocated" in block.results[arm].memory
    }
    if not results:
        return None
    rest = max(memory["allocated"], *(found["before_allocated"] for found in results.values()))
    resting = rest - memory["kv_cache"] + memory["beyond_torch"]
    transients = {size: found["peak_allocated"] - found["before_allocated"] for size, found in results.items()}
    each, free = per_token(record.arms[arm]), memory["device_free"]

    def fits(tokens: int) -> bool:
        return resting + transient(transients, tokens) + tokens * each <= free

    most = free // each
    known = min(most, reach(transients, chunk_of(record.arms[arm])) or most)
    low, high = 0, known
    while low < high:  # the greatest that fits, as what is needed never falls
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    positions = int(record.model.get("max_position_embeddings") or most + 1)
    if low == known < min(most, positions):
        return Largest(None, "chunk", resting, None, each, free, max(results))
    bound: Literal["memory", "model"] = "model" if positions <= low else "memory"
    tokens = min(positions, low)
    return Largest(tokens, bound, resting, transient(transients, tokens), each, free, max(results))


def transient(measured: Mapping[int, int], tokens: int) -> int:
    """Bytes of a prefill of `tokens`, from {tokens: bytes} of at least one."""
    sizes = np.array(sorted(measured), dtype=float)
    found = np.maximum.accumulate([measured[int(size)] for size in sizes]).astype(float)
    if tokens <= sizes[-1]:
        return round(float(np.interp(tokens, sizes, found)))
    before, less = (sizes[-2], found[-2]) if len(sizes) > 1 else (0.0, 0.0)
    return round(float(found[-1] + (found[-1] - less) / (sizes[-1] - before) * (tokens - sizes[-1])))


def reach(measured: Mapping[int, int], chunk: int | None) -> int | None:
    """The most tokens for which `transient` is known of lengths `measured`, in chunks of so many; None for any."""
    if chunk is None or sum(size >= chunk for size in measured) >= 2:
        return None
    return max(*measured, chunk)


def chunk_of(arm: ArmRecord) -> int | None:
    """Tokens of a chunk of a prompt; None where prompts are not cut, or the engine did not say so."""
    size = int(arm.engine.get("chunked_prefill_size") or 0)
    return size if size > 0 else None


def per_token(arm: ArmRecord) -> int:
    """Bytes of the KV cache for a token. The pool has a page more than it counts, which padding writes to."""
    return round(arm.memory["kv_cache"] / (arm.memory["kv_tokens"] + int(arm.engine.get("page_size") or 1)))
