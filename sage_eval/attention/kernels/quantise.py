"""K and V of a batch, read from the paged cache and the new tokens, into the operands that `attend` multiplies.

Three launches: sums over chunks of keys; their total, the sequence's own mean and the range of its V; codes. Each sum
has a fixed order that depends on the sequence alone. Scratch slots after a sequence's end are written with zeros.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor

from sage_eval.attention.kernels.plan import CHUNK, KEY_BLOCK, Plan

TINY = tl.constexpr(1.1754943508222875e-38)  # the least normal fp32: the scale of a block of zeros
FP8_MAX = tl.constexpr(448.0)
SEQUENCE_FIELDS = tl.constexpr(6)


@triton.jit
def _load_rows(
    cache, new, indices, sequence, position, head, stride_cache, stride_new,
    HEAD_DIM: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Rows `position` of one head of a sequence, [len(position), COLS]; zeros past its end and past HEAD_DIM."""
    first_row = tl.load(sequence)
    prefix = tl.load(sequence + 2)
    length = prefix + tl.load(sequence + 1)
    col = tl.arange(0, COLS)
    inside = (col < HEAD_DIM)[None, :]
    offset = (head * HEAD_DIM + col)[None, :]
    cached = position < prefix
    slot = tl.load(indices + tl.load(sequence + 3) + position, mask=cached, other=0).to(tl.int64)
    old = tl.load(cache + slot[:, None] * stride_cache + offset, mask=cached[:, None] & inside, other=0.0)
    fresh = (position >= prefix) & (position < length)
    row = (first_row + position - prefix).to(tl.int64)
    young = tl.load(new + row[:, None] * stride_new + offset, mask=fresh[:, None] & inside, other=0.0)
    return tl.where(cached[:, None], old, young).to(tl.float32)


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
def _sum_kernel(
    k, v, k_cache, v_cache, indices, sequences, chunks, sums, peaks,
    k_stride, v_stride, k_cache_stride, v_cache_stride,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0), tl.program_id(1)
    sequence = sequences + tl.load(chunks + 2 * chunk) * SEQUENCE_FIELDS
    start = tl.load(chunks + 2 * chunk + 1)
    total = tl.zeros([ROWS, COLS], tl.float32)
    peak = tl.zeros([ROWS, COLS], tl.float32)
    for row in range(0, CHUNK, ROWS):
        position = start + row + tl.arange(0, ROWS)
        rows = _load_rows(k_cache, k, indices, sequence, position, head, k_cache_stride, k_stride, HEAD_DIM, COLS)
        total += rows
        rows = _load_rows(v_cache, v, indices, sequence, position, head, v_cache_stride, v_stride, HEAD_DIM, COLS)
        peak = tl.maximum(peak, tl.abs(rows))
    target = (chunk * HEADS + head) * COLS + tl.arange(0, COLS)
    tl.store(sums + target, tl.sum(total, 0))
    tl.store(peaks + target, tl.max(peak, 0))


@triton.jit
def _total_kernel(
    sums, peaks, sequences, means, v_scales,
    HEADS: tl.constexpr, COLS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    index, head = tl.program_id(0), tl.program_id(1)
    sequence = sequences + index * SEQUENCE_FIELDS
    length = tl.load(sequence + 1) + tl.load(sequence + 2)
    first, count = tl.load(sequence + 5), tl.cdiv(length, CHUNK)
    col = tl.arange(0, COLS)
    total = tl.zeros([COLS], tl.float32)
    peak = tl.zeros([COLS], tl.float32)
    for row in range(0, count, ROWS):
        chunk = row + tl.arange(0, ROWS)
        place = ((first + chunk)[:, None] * HEADS + head) * COLS + col[None, :]
        valid = (chunk < count)[:, None]
        total += tl.sum(tl.load(sums + place, mask=valid, other=0.0), 0)
        peak = tl.maximum(peak, tl.max(tl.load(peaks + place, mask=valid, other=0.0), 0))
    target = (index * HEADS + head) * COLS + col
    tl.store(means + target, tl.div_rn(total, tl.full([COLS], 1.0, tl.float32) * length))
    tl.store(v_scales + target, value_scale(peak, COLS, FP8))


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
def _code_kernel(
    k, v, k_cache, v_cache, indices, sequences, key_tiles, shifts, v_scales, k_codes, k_scales, v_codes,
    k_stride, v_stride, k_cache_stride, v_cache_stride, shift_stride, slots,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr,
    TOP: tl.constexpr, SHIFT: tl.constexpr, FP8: tl.constexpr, INTERLEAVE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    index = tl.load(key_tiles + 2 * tile)
    start = tl.load(key_tiles + 2 * tile + 1)
    sequence = sequences + index * SEQUENCE_FIELDS
    length = tl.load(sequence + 1) + tl.load(sequence + 2)
    position = start + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    valid = (position < length)[:, None] & (col < HEAD_DIM)[None, :]
    slot = head * slots.to(tl.int64) + tl.load(sequence + 4) + start
    place = (slot + tl.arange(0, ROWS))[:, None] * COLS + col[None, :]

    rows = _load_rows(k_cache, k, indices, sequence, position, head, k_cache_stride, k_stride, HEAD_DIM, COLS)
    if SHIFT:
        shift = tl.load(shifts + index * shift_stride + head * COLS + col)
        rows = tl.where(valid, rows - shift[None, :], 0.0)
    scale = block_scale(rows, TOP)
    tl.store(k_codes + place, round_codes(rows, scale))
    tl.store(k_scales + slot // ROWS, scale)

    rows = _load_rows(v_cache, v, indices, sequence, position, head, v_cache_stride, v_stride, HEAD_DIM, COLS)
    v_scale = tl.load(v_scales + (index * HEADS + head) * COLS + col)
    rows = rows * tl.div_rn(tl.full([COLS], 1.0, tl.float32), v_scale)[None, :]
    if FP8:  # keys side by side, as Hopper's FP8 matrix unit wants its second operand
        key = position
        if INTERLEAVE:  # keys 8a + 2t + e of 16 go to 4t + 2a + e: a thread's P is then its operand as it stands
            key = key // 16 * 16 + key // 2 % 4 * 4 + key // 8 % 2 * 2 + key % 2
        place = (head * COLS + col).to(tl.int64)[None, :] * slots + (tl.load(sequence + 4) + key)[:, None]
    tl.store(v_codes + place, rows.to(v_codes.dtype.element_ty))


def quantise(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_indices: Tensor,
    plan: Plan,
    *,
    top: int = 127,
    fp8: bool = False,
    interleave: bool = False,
    smooth: bool = True,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operands of a batch: K's codes and scales, V's codes and scales.

    Args:
        k: new tokens' keys, [tokens, Hkv, D], heads and channels contiguous; `v` likewise.
        v: new tokens' values.
        k_cache: the pool, [slots, Hkv, D]; `v_cache` likewise. Only rows named by `kv_indices` are read.
        v_cache: the pool's values.
        kv_indices: pool rows of all prefixes, one sequence after the other.
        plan: the batch.
        top: largest code: 127 for INT8, 7 for INT4.
        fp8: V in e4m3 with a scale a channel and stored transposed, instead of fp16 with a power of two a head.
        interleave: with `fp8`, order the keys of V as the Hopper kernel's P comes out of its product.
        smooth: shift K at all.
        shift: [Hkv, D] fp32, the shift to use in place of each sequence's mean.

    Returns:
        int8 [Hkv · slots, P], fp32 [Hkv · slots / 64], V as [Hkv · slots, P] fp16 or [Hkv · P, slots] e4m3, and
        fp32 [sequences, Hkv, P]; P is D rounded up to a power of two.
    """
    heads, dim = k.shape[1:]
    cols = triton.next_power_of_2(dim)
    count, chunks = len(plan.sequences), len(plan.chunks)
    sums, peaks = k.new_empty((2, chunks, heads, cols), dtype=torch.float32)
    means, v_scales = k.new_empty((2, count, heads, cols), dtype=torch.float32)
    k_codes = k.new_empty((heads * plan.slots, cols), dtype=torch.int8)
    k_scales = k.new_empty(heads * plan.slots // KEY_BLOCK, dtype=torch.float32)
    v_dtype = torch.float8_e4m3fn if fp8 else torch.float16
    v_codes = k.new_empty((heads * cols, plan.slots) if fp8 else (heads * plan.slots, cols), dtype=v_dtype)
    strides = k.stride(0), v.stride(0), k_cache.stride(0), v_cache.stride(0)
    sources = k, v, k_cache, v_cache, kv_indices, plan.sequences
    size = {"HEADS": heads, "HEAD_DIM": dim, "COLS": cols}

    _sum_kernel[(chunks, heads)](*sources, plan.chunks, sums, peaks, *strides, **size, CHUNK=CHUNK, ROWS=32)
    _total_kernel[(count, heads)](
        sums, peaks, plan.sequences, means, v_scales, HEADS=heads, COLS=cols, CHUNK=CHUNK, ROWS=32, FP8=fp8
    )
    shifts, shift_stride = means, heads * cols
    if shift is not None:
        shifts, shift_stride = torch.nn.functional.pad(shift.float(), (0, cols - dim)).contiguous(), 0
    _code_kernel[(len(plan.key_tiles), heads)](
        *sources, plan.key_tiles, shifts, v_scales, k_codes, k_scales, v_codes, *strides, shift_stride, plan.slots,
        **size, ROWS=KEY_BLOCK, TOP=top, SHIFT=smooth, FP8=fp8, INTERLEAVE=interleave,
    )  # fmt: skip
    return k_codes, k_scales, v_codes, v_scales
