"""One new token a sequence over the paged cache, Q·K in INT8: `numerics.attention` with a single query.

Three launches: sums and ranges of each part of a sequence's keys; attention of each part, which quantises the keys it
reads; the parts put together. A sequence is cut into at most `PARTS` parts of whole key blocks, by its own length
alone, and parts are added in their order: a sequence's bits depend on nothing else. Grids and buffers depend on the
batch's size only and nothing waits for the host, so that a CUDA graph can hold all of it. It is there to measure what
INT8 does to decoding: keys are quantised anew at each step, which costs more than it saves.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sage_eval.attention.kernels.quantise import TINY, block_scale, round_codes, value_scale

KEYS = tl.constexpr(64)
PARTS = 32


@triton.jit
def _part(indptr, sequence, part, PARTS: tl.constexpr):
    """A sequence's first entry in the table of pool rows, its length, and the part's first and last position."""
    first = tl.load(indptr + sequence).to(tl.int64)
    length = (tl.load(indptr + sequence + 1).to(tl.int64) - first).to(tl.int32)
    size = tl.cdiv(tl.cdiv(length, KEYS), PARTS) * KEYS
    return first, length, part * size, tl.minimum((part + 1) * size, length)


@triton.jit
def _rows(cache, indices, first, position, end, head, stride, HEAD_DIM: tl.constexpr, COLS: tl.constexpr):
    """Rows `position` of a sequence, one head; zeros from `end` on."""
    col = tl.arange(0, COLS)
    slot = tl.load(indices + first + position, mask=position < end, other=0).to(tl.int64)
    inside = (position < end)[:, None] & (col < HEAD_DIM)[None, :]
    return tl.load(cache + slot[:, None] * stride + (head * HEAD_DIM + col)[None, :], mask=inside, other=0.0).to(
        tl.float32
    )


@triton.jit
def _sum_kernel(
    k_cache, v_cache, indptr, indices, sums, peaks, k_stride, v_stride,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    sequence, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, _, begin, end = _part(indptr, sequence, part, PARTS)
    total = tl.zeros([KEYS, COLS], tl.float32)
    peak = tl.zeros([KEYS, COLS], tl.float32)
    for start in range(begin, end, KEYS):
        position = start + tl.arange(0, KEYS)
        total += _rows(k_cache, indices, first, position, end, head, k_stride, HEAD_DIM, COLS)
        rows = _rows(v_cache, indices, first, position, end, head, v_stride, HEAD_DIM, COLS)
        peak = tl.maximum(peak, tl.abs(rows))
    place = ((sequence * HEADS + head) * PARTS + part) * COLS + tl.arange(0, COLS)
    tl.store(sums + place, tl.sum(total, 0))
    tl.store(peaks + place, tl.max(peak, 0))


@triton.jit
def _codes(x, TOP: tl.constexpr):
    """Codes and scales of rows, each a block of its own: there is one query to a head."""
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(x), 1), tl.full([x.shape[0]], TOP, tl.float32)), TINY)
    ratio = x * tl.div_rn(tl.full([x.shape[0]], 1.0, tl.float32), scale)[:, None]
    return tl.where(ratio >= 0, ratio + 0.5, ratio - 0.5).to(tl.int8), scale


@triton.jit
def _attend_kernel(
    q, k_cache, v_cache, indptr, indices, sums, peaks, shift, accs, tops, totals,
    factor, q_stride, k_stride, v_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr,
    PARTS: tl.constexpr, TOP: tl.constexpr, MEAN: tl.constexpr, SHIFT: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    sequence, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, length, begin, end = _part(indptr, sequence, part, PARTS)
    if begin >= end:
        return
    row, col, every = tl.arange(0, ROWS), tl.arange(0, COLS), tl.arange(0, PARTS)
    place = ((sequence * HEADS + head) * PARTS + every)[:, None] * COLS + col[None, :]
    v_scale = value_scale(tl.max(tl.load(peaks + place), 0), COLS, FP8)
    v_factor = tl.div_rn(tl.full([COLS], 1.0, tl.float32), v_scale)
    moved = tl.zeros([COLS], tl.float32)
    if MEAN:
        moved = tl.div_rn(tl.sum(tl.load(sums + place), 0), tl.full([COLS], 1.0, tl.float32) * length)
    if SHIFT:
        moved = tl.load(shift + head * HEAD_DIM + col, mask=col < HEAD_DIM, other=0.0)

    query = head * GROUP + row
    inside = (row < GROUP)[:, None] & (col < HEAD_DIM)[None, :]
    address = q + sequence.to(tl.int64) * q_stride + query[:, None] * HEAD_DIM + col[None, :]
    codes, q_scale = _codes(tl.load(address, mask=inside, other=0.0).to(tl.float32) * factor, TOP)

    acc = tl.zeros([ROWS, COLS], tl.float32)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(begin, end, KEYS):
        position = start + tl.arange(0, KEYS)
        valid = (position < end)[:, None] & (col < HEAD_DIM)[None, :]
        keys = _rows(k_cache, indices, first, position, end, head, k_stride, HEAD_DIM, COLS)
        keys = tl.where(valid, keys - moved[None, :], 0.0)
        k_scale = block_scale(keys, TOP)
        s = tl.dot(codes, tl.trans(round_codes(keys, k_scale))).to(tl.float32) * (q_scale * k_scale)[:, None]
        s = tl.where((position < end)[None, :], s, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.math.exp2(s - new_top[:, None])
        shrink = tl.math.exp2(top - new_top)
        total = total * shrink + tl.sum(p, 1)
        values = _rows(v_cache, indices, first, position, end, head, v_stride, HEAD_DIM, COLS) * v_factor[None, :]
        if FP8:  # e4m3 numbers and their products are exact in fp16's products
            values = values.to(tl.float8e4nv).to(tl.float16)
            weights = (p * 256.0).to(tl.float8e4nv).to(tl.float16)
        else:
            values = values.to(tl.float16)
            weights = p.to(tl.float16)
        acc = tl.dot(weights, values, acc * shrink[:, None])
        top = new_top
    if FP8:
        v_scale = v_scale * 0.00390625
    queries: tl.constexpr = HEADS * GROUP
    place = (sequence * queries + query) * PARTS + part
    tl.store(tops + place, top, mask=row < GROUP)
    tl.store(totals + place, total, mask=row < GROUP)
    place = place[:, None] * COLS + col[None, :]
    tl.store(accs + place, acc * v_scale[None, :], mask=(row < GROUP)[:, None] & (col < COLS)[None, :])


@triton.jit
def _join_kernel(
    indptr, accs, tops, totals, out, out_stride,
    QUERIES: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    sequence, query = tl.program_id(0), tl.program_id(1)
    part, col = tl.arange(0, PARTS), tl.arange(0, COLS)
    _, _, begin, end = _part(indptr, sequence, part, PARTS)
    filled = begin < end
    place = (sequence * QUERIES + query) * PARTS + part
    top = tl.load(tops + place, mask=filled, other=float("-inf"))
    weight = tl.math.exp2(top - tl.max(top, 0))
    total = tl.sum(tl.load(totals + place, mask=filled, other=0.0) * weight, 0)
    acc = tl.load(accs + place[:, None] * COLS + col[None, :], mask=filled[:, None], other=0.0)
    result = tl.sum(acc * weight[:, None], 0) / total
    address = out + sequence.to(tl.int64) * out_stride + query * HEAD_DIM + col
    tl.store(address, result.to(out.dtype.element_ty), mask=col < HEAD_DIM)


def decode_attention(
    q: Tensor,
    out: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_indptr: Tensor,
    kv_indices: Tensor,
    *,
    scale: float,
    top: int = 127,
    fp8: bool = False,
    smooth: bool = True,
    shift: Tensor | None = None,
) -> None:
    """Fill `out` [sequences, Hq, D] with attention of one query a sequence over all of its keys.

    Args:
        q: queries, [sequences, Hq, D], fp16 or bf16, heads and channels contiguous; D is 64, 96 or 128.
        out: as `q`.
        k_cache: the key pool, [slots, Hkv, D], the new token's key included; `v_cache` likewise.
        v_cache: the value pool.
        kv_indptr: where each sequence's pool rows begin in `kv_indices`, [sequences + 1]; each has at least one.
        kv_indices: pool rows of all sequences, one sequence after the other; what follows the last is not read.
        scale: softmax scale.
        top: largest code: 127 for INT8, 7 for INT4.
        fp8: P and V rounded to e4m3 (V with a scale a channel) instead of fp16.
        smooth: shift K at all.
        shift: [Hkv, D] fp32, contiguous: the shift to use in place of each sequence's mean.
    """
    count, queries, dim = q.shape
    heads = k_cache.shape[1]
    cols, group = triton.next_power_of_2(dim), queries // heads
    sums, peaks = q.new_empty((2, count, heads, PARTS, cols), dtype=torch.float32)
    tops, totals = q.new_empty((2, count, queries, PARTS), dtype=torch.float32)
    accs = q.new_empty((count, queries, PARTS, cols), dtype=torch.float32)
    size = {"HEAD_DIM": dim, "COLS": cols, "PARTS": PARTS}
    grid, strides = (count, heads, PARTS), (k_cache.stride(0), v_cache.stride(0))
    _sum_kernel[grid](k_cache, v_cache, kv_indptr, kv_indices, sums, peaks, *strides, HEADS=heads, **size)
    _attend_kernel[grid](
        q, k_cache, v_cache, kv_indptr, kv_indices, sums, peaks, sums if shift is None else shift, accs, tops, totals,
        scale * math.log2(math.e), q.stride(0), *strides,
        HEADS=heads, GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), **size,
        TOP=top, MEAN=smooth and shift is None, SHIFT=smooth and shift is not None, FP8=fp8,
    )  # fmt: skip
    _join_kernel[count, queries](kv_indptr, accs, tops, totals, out, out.stride(0), QUERIES=queries, **size)
