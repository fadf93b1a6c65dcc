"""Attention over quantised K and V: prefix and new tokens in one pass, causal mask aligned to the end.

A program computes 128 query rows of one head. It quantises its rows itself (each row is read by one program only), then
walks over the keys its first row sees in full, and then over those that the mask cuts. Operands come from `quantise`,
contiguous per head, so that key tiles load as whole tensors.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sage_eval.attention.kernels.plan import KEY_BLOCK, QUERY_BLOCK, Plan
from sage_eval.attention.kernels.quantise import SEQUENCE_FIELDS, block_scale, round_codes
from sage_eval.attention.kernels.tiles import Tile

P_BITS = tl.constexpr(8)  # log2 of P's scale in e4m3


@triton.jit
def _load_v(v_codes, head, first, COLS: tl.constexpr, N: tl.constexpr, FP8: tl.constexpr):
    if FP8:
        return v_codes.load([head * COLS, first]).T
    else:
        return v_codes.load([first, 0])


@triton.jit
def _step(
    acc, peak, total, dots, scale, key, last_key, v_codes, kv_head, first,
    COLS: tl.constexpr, N: tl.constexpr, MASKED: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One tile of 64 keys into the running softmax."""
    s = dots.to(tl.float32)
    if MASKED:
        s = tl.where(key[None, :] <= last_key[:, None], s * scale, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(s, 1))
        p = tl.math.exp2(s - new_peak[:, None])
    else:
        new_peak = tl.maximum(peak, tl.max(s, 1) * scale)
        p = tl.math.exp2(s * scale - new_peak[:, None])
    shrink = tl.math.exp2(peak - new_peak)
    total = total * shrink + tl.sum(p, 1)
    acc = acc * shrink[:, None]
    v = _load_v(v_codes, kv_head, first, COLS, N, FP8)
    if FP8:
        acc += tl.dot((p * 256.0).to(tl.float8e4nv), v)
    else:
        acc = tl.dot(p.to(tl.float16), v, acc)
    return acc, new_peak, total


@triton.jit
def _attend_kernel(
    q, out, k_codes, k_scales, v_codes, v_scales, query_tiles,
    factor, slots, q_stride, out_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, TOP: tl.constexpr, FP8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tile, head = program // HEADS, program % HEADS
    work = query_tiles + tile * (2 + SEQUENCE_FIELDS)
    index, start, first_row = tl.load(work), tl.load(work + 1), tl.load(work + 2)
    new, prefix, slot = tl.load(work + 3), tl.load(work + 4), tl.load(work + 6)
    kv_head = head // GROUP
    first = kv_head * slots + slot
    v_first = slot if FP8 else first

    row = start + tl.arange(0, M)
    col = tl.arange(0, COLS)
    valid = (row < new)[:, None] & (col < HEAD_DIM)[None, :]
    token = (first_row + row).to(tl.int64)[:, None]
    x = tl.load(q + token * q_stride + (head * HEAD_DIM + col)[None, :], mask=valid, other=0.0).to(tl.float32) * factor
    q_scale = block_scale(x, TOP)
    codes = round_codes(x, q_scale)

    last_key = prefix + row
    whole = (prefix + start + 1) // N * N
    end = tl.cdiv(tl.minimum(prefix + start + M, prefix + new), N) * N
    acc = tl.zeros([M, COLS], tl.float32)
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    scales = k_scales + first // N
    for n in tl.range(0, whole, N, num_stages=STAGES):
        dots = tl.dot(codes, k_codes.load([first + n, 0]).T)
        scale = q_scale * tl.load(scales + n // N)
        acc, peak, total = _step(
            acc, peak, total, dots, scale, row, row, v_codes, kv_head, v_first + n, COLS, N, False, FP8
        )
    for n in tl.range(whole, end, N, num_stages=STAGES):
        dots = tl.dot(codes, k_codes.load([first + n, 0]).T)
        scale = q_scale * tl.load(scales + n // N)
        key = n + tl.arange(0, N)
        acc, peak, total = _step(
            acc, peak, total, dots, scale, key, last_key, v_codes, kv_head, v_first + n, COLS, N, True, FP8
        )

    kv_heads: tl.constexpr = HEADS // GROUP
    v_scale = tl.load(v_scales + (index * kv_heads + kv_head) * COLS + col)
    if FP8:
        v_scale = v_scale * 0.00390625
    acc = acc / total[:, None] * v_scale[None, :]
    tl.store(out + token * out_stride + (head * HEAD_DIM + col)[None, :], acc.to(out.dtype.element_ty), mask=valid)


def attend(
    q: Tensor,
    out: Tensor,
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    plan: Plan,
    *,
    scale: float,
    top: int = 127,
    tile: Tile,
) -> None:
    """Fill `out` [tokens, Hq, D] with attention of `q` (same shape) over the operands that `quantise` made.

    Args:
        q: queries of the new tokens, heads and channels contiguous.
        out: written for every row that the plan serves, and no other.
        operands: `quantise`'s result for the same plan.
        plan: the batch.
        scale: softmax scale.
        top: largest code of Q, as K's.
        tile: launch options; "gluon" with FP8 needs operands that were interleaved.
    """
    k_codes, k_scales, v_codes, v_scales = operands
    heads, dim = q.shape[1:]
    kv_heads, cols = v_scales.shape[1:]
    fp8 = v_codes.dtype == torch.float8_e4m3fn
    v_block = [cols, tile.keys] if fp8 else [tile.keys, cols]
    size = {"HEADS": heads, "GROUP": heads // kv_heads, "HEAD_DIM": dim, "COLS": cols, "TOP": top}
    factor = scale * math.log2(math.e)
    tables = v_scales, plan.query_tiles, factor, plan.slots, q.stride(0), out.stride(0)
    items = len(plan.query_tiles) * heads
    if tile.kernel == "gluon":
        from sage_eval.attention.kernels import attend_sm90 as sm90  # Gluon is there on CUDA only

        k_desc, v_desc = sm90.describe(k_codes, [tile.keys, cols]), sm90.describe(v_codes, v_block)
        programs = min(items, torch.cuda.get_device_properties(q.device).multi_processor_count)
        if fp8:
            from sage_eval.attention.kernels import attend_sm90_fp8

            kernel = attend_sm90_fp8._attend_kernel
        else:
            kernel = sm90._attend_kernel
        kernel[programs,](
            q, out, k_desc, k_scales, v_desc, *tables, items, **size, STAGES=tile.stages, num_warps=tile.warps
        )
        return
    options = {"maxnreg": tile.registers} if tile.registers else {}
    _attend_kernel[items,](
        q, out, TensorDescriptor.from_tensor(k_codes, [tile.keys, cols]), k_scales,
        TensorDescriptor.from_tensor(v_codes, v_block), *tables, **size,
        M=QUERY_BLOCK, N=KEY_BLOCK, FP8=fp8, STAGES=tile.stages, num_warps=tile.warps, **options,
    )  # fmt: skip
