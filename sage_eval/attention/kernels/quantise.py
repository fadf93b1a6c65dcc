"""Q, K and V of a batch, read from the paged cache and the new tokens, into the operands that `attend` multiplies.

Two launches. The first adds up K and takes the range of V over chunks of keys, and codes Q, which needs neither; the
second codes K and V, and each of its programs adds up the few chunks of its sequence by itself. Each sum has a fixed
order that depends on the sequence alone. Scratch rows after a sequence's end are written with zeros.

On Hopper the second launch starts while the first still runs (programmatic dependent launch): it reads its rows of K
or V, then waits for the first to end before it looks at the sums.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sage_eval.attention.kernels.launch import Launch
from sage_eval.attention.kernels.plan import CHUNKS, KEY_BLOCK, QUERY_BLOCK, STEP, Plan

TINY = tl.constexpr(1.1754943508222875e-38)  # the least normal fp32: the scale of a block of zeros
FP8_MAX = tl.constexpr(448.0)
SEQUENCE_FIELDS = tl.constexpr(6)
MOST_CHUNKS = tl.constexpr(CHUNKS)
CHUNK_STEP = tl.constexpr(STEP)


class Operands(NamedTuple):
    """What `attend` multiplies; P is D rounded up to a power of two.

    `q_codes` int8 [tiles · Hq · 128, P] and `q_scales` fp32 [tiles · Hq], in the order of `Plan.query_tiles`, heads
    inside a tile; `k_codes` int8 [Hkv · slots, P] and `k_scales` fp32 [Hkv · slots / 64]; `v_codes` as [Hkv · slots, P]
    fp16 or [Hkv · P, slots] e4m3; `v_scales` fp32 [sequences, Hkv, P].
    """

    q_codes: Tensor
    q_scales: Tensor
    k_codes: Tensor
    k_scales: Tensor
    v_codes: Tensor
    v_scales: Tensor


class Memory(NamedTuple):
    """Where `quantise` writes: the operands, and on the way to them K's sums and V's largest values a chunk."""

    operands: Operands
    sums: Tensor
    peaks: Tensor


@triton.jit
def _load_rows(
    cache, new, indices, sequence, position, head, stride_cache, stride_new,
    HEAD_DIM: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Rows `position` of one head of a sequence, [len(position), COLS]; zeros past its end and past HEAD_DIM."""
    prefix = tl.load(sequence + 2)
    length = prefix + tl.load(sequence + 1)
    cached = position < prefix
    slot = tl.load(indices + tl.load(sequence + 3) + position, mask=cached, other=0).to(tl.int64)
    fresh = (tl.load(sequence) + position - prefix).to(tl.int64)
    row = tl.where(cached, cache + slot * stride_cache, new + fresh * stride_new)
    col = tl.arange(0, COLS)
    inside = (position < length)[:, None] & (col < HEAD_DIM)[None, :]
    return tl.load(row[:, None] + (head * HEAD_DIM + col)[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _chunk_size(length):
    """Keys of a chunk: a sequence has at most MOST_CHUNKS."""
    return tl.cdiv(length, CHUNK_STEP * MOST_CHUNKS) * CHUNK_STEP


@triton.jit
def value_scale(peak, COLS: tl.constexpr, FP8: tl.constexpr):
    """What a head's V is divided by, a channel, for its largest values `peak`.

    In fp16 2^max(0, e - 9), e as frexp has it: |V| <= 512 keeps the sum of 64 products inside fp16.
    """
    if FP8:
        return tl.maximum(tl.div_rn(peak, tl.full([COLS], FP8_MAX, tl.float32)), TINY)
    else:
        biased = (tl.max(peak, 0).to(tl.int32, bitcast=True) >> 23) & 0xFF
        exponent = tl.maximum(biased - 126 - 9, 0)
        return (tl.zeros([COLS], tl.int32) + ((exponent + 127) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def round_codes(x, scale):
    """INT8 codes of x, halves away from zero."""
    ratio = x * tl.div_rn(1.0, scale)
    return tl.where(ratio >= 0, ratio + 0.5, ratio - 0.5).to(tl.int8)


@triton.jit
def block_scale(x, TOP: tl.constexpr):
    """max|x| / TOP of a tile, never zero."""
    return tl.maximum(tl.div_rn(tl.max(tl.abs(x)), TOP * 1.0), TINY)


@triton.jit
def balance_of(balance, kv_head, col, HEAD_DIM: tl.constexpr):
    """What a KV head's channels are divided by, and those of its queries multiplied by; ones past HEAD_DIM."""
    return tl.load(balance + kv_head * HEAD_DIM + col, mask=col < HEAD_DIM, other=1.0)


@triton.jit
def _let_next_start(EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def _wait_for_first(EARLY: tl.constexpr):
    if EARLY:
        gdc_wait()


@triton.jit
def _first_kernel(
    q, k, v, k_cache, v_cache, indices, sequences, query_tiles, chunks, sums, peaks, balance, q_codes, q_scales,
    factor, chunk_count, q_stride, k_stride, v_stride, k_cache_stride, v_cache_stride,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, QUERIES: tl.constexpr, TOP: tl.constexpr, BALANCE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _let_next_start(EARLY)
    program = tl.program_id(0)
    col = tl.arange(0, COLS)
    if program < 2 * chunk_count * HEADS:  # K's chunks first, then V's
        chunk = program // HEADS % chunk_count
        head = program % HEADS
        sequence = sequences + tl.load(chunks + 2 * chunk) * SEQUENCE_FIELDS
        start = tl.load(chunks + 2 * chunk + 1)
        size = _chunk_size(tl.load(sequence + 1) + tl.load(sequence + 2))
        total = tl.zeros([ROWS, COLS], tl.float32)
        target = (chunk * HEADS + head) * COLS + col
        if program < chunk_count * HEADS:
            for row in range(0, size, ROWS):
                position = start + row + tl.arange(0, ROWS)
                total += _load_rows(
                    k_cache, k, indices, sequence, position, head, k_cache_stride, k_stride, HEAD_DIM, COLS
                )
            tl.store(sums + target, tl.sum(total, 0))
        else:
            for row in range(0, size, ROWS):
                position = start + row + tl.arange(0, ROWS)
                rows = _load_rows(
                    v_cache, v, indices, sequence, position, head, v_cache_stride, v_stride, HEAD_DIM, COLS
                )
                total = tl.maximum(total, tl.abs(rows))
            tl.store(peaks + target, tl.max(total, 0))
    else:
        item = program - 2 * chunk_count * HEADS
        tile = query_tiles + item // (HEADS * GROUP) * (2 + SEQUENCE_FIELDS)
        line = tl.arange(0, QUERIES)
        query = tl.load(tile + 1) + line
        token = (tl.load(tile + 2) + query).to(tl.int64)
        inside = (query < tl.load(tile + 3))[:, None] & (col < HEAD_DIM)[None, :]
        head = item % (HEADS * GROUP)
        offset = head * HEAD_DIM + col
        x = tl.load(q + token[:, None] * q_stride + offset[None, :], mask=inside, other=0.0).to(tl.float32) * factor
        if BALANCE:
            kv_head = head // GROUP
            x = x * balance_of(balance, kv_head, col, HEAD_DIM)[None, :]
        scale = block_scale(x, TOP)
        tl.store(q_codes + (item.to(tl.int64) * QUERIES + line)[:, None] * COLS + col[None, :], round_codes(x, scale))
        tl.store(q_scales + item, scale)


@triton.jit
def _second_kernel(
    k, v, k_cache, v_cache, indices, sequences, key_tiles, sums, peaks, shifts, balance, k_codes, k_scales,
    v_codes, v_scales, k_stride, v_stride, k_cache_stride, v_cache_stride, slots,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr, TOP: tl.constexpr,
    MEAN: tl.constexpr, SHIFT: tl.constexpr, BALANCE: tl.constexpr, FP8: tl.constexpr, INTERLEAVE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    _let_next_start(EARLY)
    program = tl.program_id(0)
    head = program // 2 % HEADS
    tile = key_tiles + program // (2 * HEADS) * 2
    index = tl.load(tile)
    start = tl.multiple_of(tl.load(tile + 1), ROWS)
    sequence = sequences + index * SEQUENCE_FIELDS
    length = tl.load(sequence + 1) + tl.load(sequence + 2)
    first = tl.multiple_of(tl.load(sequence + 4), ROWS) + start
    line = tl.arange(0, ROWS)
    position = start + line
    col = tl.arange(0, COLS)
    every = tl.arange(0, MOST_CHUNKS)
    chunk = ((tl.load(sequence + 5) + every)[:, None] * HEADS + head) * COLS + col[None, :]
    filled = (every < tl.cdiv(length, _chunk_size(length)))[:, None]
    slot = head * slots.to(tl.int64) + first
    place = (slot + line)[:, None] * COLS + col[None, :]
    if program % 2 == 0:
        rows = _load_rows(k_cache, k, indices, sequence, position, head, k_cache_stride, k_stride, HEAD_DIM, COLS)
        _wait_for_first(EARLY)
        if MEAN:
            total = tl.sum(tl.load(sums + chunk, mask=filled, other=0.0), 0)
            shift = tl.div_rn(total, tl.full([COLS], 1.0, tl.float32) * length)
        if SHIFT:
            shift = tl.load(shifts + head * HEAD_DIM + col, mask=col < HEAD_DIM, other=0.0)
        if MEAN or SHIFT:
            valid = (position < length)[:, None] & (col < HEAD_DIM)[None, :]
            rows = tl.where(valid, rows - shift[None, :], 0.0)
        if BALANCE:
            one = tl.full([COLS], 1.0, tl.float32)
            rows = rows * tl.div_rn(one, balance_of(balance, head, col, HEAD_DIM))[None, :]
        scale = block_scale(rows, TOP)
        tl.store(k_codes + place, round_codes(rows, scale))
        tl.store(k_scales + slot // ROWS, scale)
    else:
        rows = _load_rows(v_cache, v, indices, sequence, position, head, v_cache_stride, v_stride, HEAD_DIM, COLS)
        _wait_for_first(EARLY)
        v_scale = value_scale(tl.max(tl.load(peaks + chunk, mask=filled, other=0.0), 0), COLS, FP8)
        if start == 0:
            tl.store(v_scales + (index * HEADS + head) * COLS + col, v_scale)
        codes = (rows * tl.div_rn(tl.full([COLS], 1.0, tl.float32), v_scale)[None, :]).to(v_codes.dtype.element_ty)
        if FP8:  # keys side by side, as Hopper's FP8 matrix unit wants its second operand
            if INTERLEAVE:  # keys 8a + 2t + e of 16 go to 4t + 2a + e: a thread's P is then its operand as it stands
                codes = codes.reshape(ROWS // 16, 2, 4, 2, COLS).permute(4, 0, 2, 1, 3).reshape(COLS, ROWS)
            else:
                codes = codes.trans()
            tl.store(v_codes + (head * COLS + col).to(tl.int64)[:, None] * slots + (first + line)[None, :], codes)
        else:
            tl.store(v_codes + place, codes)


def allocate(q: Tensor, k: Tensor, plan: Plan, *, fp8: bool) -> Memory:
    """Memory, not initialised, for the operands of `plan`; q is [tokens, Hq, D] and k [tokens, Hkv, D]."""
    heads, cols = k.shape[1], triton.next_power_of_2(k.shape[2])
    items = len(plan.query_tiles) * q.shape[1]
    sums, peaks = k.new_empty((2, len(plan.chunks), heads, cols), dtype=torch.float32)
    operands = Operands(
        q_codes=k.new_empty((items * QUERY_BLOCK, cols), dtype=torch.int8),
        q_scales=k.new_empty(items, dtype=torch.float32),
        k_codes=k.new_empty((heads * plan.slots, cols), dtype=torch.int8),
        k_scales=k.new_empty(heads * plan.slots // KEY_BLOCK, dtype=torch.float32),
        v_codes=k.new_empty(
            (heads * cols, plan.slots) if fp8 else (heads * plan.slots, cols),
            dtype=torch.float8_e4m3fn if fp8 else torch.float16,
        ),
        v_scales=k.new_empty((len(plan.sequences), heads, cols), dtype=torch.float32),
    )
    return Memory(operands, sums, peaks)


def quantise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_indices: Tensor,
    plan: Plan,
    *,
    scale: float,
    top: int = 127,
    fp8: bool = False,
    interleave: bool = False,
    smooth: bool = True,
    shift: Tensor | None = None,
    balance: Tensor | None = None,
    early: bool = False,
    memory: Memory | None = None,
    launch: Launch | None = None,
) -> Operands:
    """Codes and scales of a batch.

    Args:
        q: queries of the new tokens, [tokens, Hq, D], heads and channels contiguous; `k` and `v` likewise.
        k: their keys, [tokens, Hkv, D].
        v: their values.
        k_cache: the pool, [slots, Hkv, D]; `v_cache` likewise. Only rows named by `kv_indices` are read.
        v_cache: the pool's values.
        kv_indices: pool rows of all prefixes, one sequence after the other.
        plan: the batch.
        scale: softmax scale, which Q is multiplied by.
        top: largest code: 127 for INT8, 7 for INT4.
        fp8: V in e4m3 with a scale a channel and stored transposed, instead of fp16 with a power of two a head.
        interleave: with `fp8`, order the keys of V as the Hopper kernel's P comes out of its product.
        smooth: shift K at all.
        shift: [Hkv, D] fp32, contiguous: the shift to use in place of each sequence's mean.
        balance: [Hkv, D] fp32, contiguous: what shifted K is divided by and Q multiplied by.
        early: start the second kernel before the first has ended (Hopper).
        memory: where to write; new memory by default.
        launch: how the kernels are started; a new `Launch` by default.
    """
    heads, dim = k.shape[1:]
    cols = triton.next_power_of_2(dim)
    memory, launch = memory or allocate(q, k, plan, fp8=fp8), launch or Launch()
    (q_codes, q_scales, k_codes, k_scales, v_codes, v_scales), sums, peaks = memory
    strides = k.stride(0), v.stride(0), k_cache.stride(0), v_cache.stride(0)
    sources = k, v, k_cache, v_cache, kv_indices, plan.sequences
    size = {"HEADS": heads, "HEAD_DIM": dim, "COLS": cols}
    launch(
        _first_kernel, 2 * len(plan.chunks) * heads + len(q_scales),
        q, *sources, plan.query_tiles, plan.chunks, sums, peaks, sums if balance is None else balance,
        q_codes, q_scales, scale * math.log2(math.e), len(plan.chunks), q.stride(0), *strides,
        **size, GROUP=q.shape[1] // heads, ROWS=32, QUERIES=QUERY_BLOCK, TOP=top,
        BALANCE=balance is not None, EARLY=early,
        options={"num_warps": 4},
    )  # fmt: skip
    launch(
        _second_kernel, 2 * len(plan.key_tiles) * heads,
        *sources, plan.key_tiles, sums, peaks, sums if shift is None else shift, sums if balance is None else balance,
        k_codes, k_scales, v_codes, v_scales, *strides, plan.slots,
        **size, ROWS=KEY_BLOCK, TOP=top, MEAN=smooth and shift is None, SHIFT=smooth and shift is not None,
        BALANCE=balance is not None, FP8=fp8, INTERLEAVE=interleave, EARLY=early,
        options={"num_warps": 4} | ({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return memory.operands
