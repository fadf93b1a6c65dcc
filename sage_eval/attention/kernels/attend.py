"""Attention over quantised Q, K and V: prefix and new tokens in one pass, causal mask aligned to the end.

A program computes 128 query rows of one head: it walks over the keys its first row sees in full, and then over those
that the mask cuts. Operands come from `quantise`, contiguous per head, so that tiles load as whole tensors.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sage_eval.attention.kernels.launch import Launch
from sage_eval.attention.kernels.plan import KEY_BLOCK, QUERY_BLOCK, Plan
from sage_eval.attention.kernels.quantise import SEQUENCE_FIELDS, Operands
from sage_eval.attention.kernels.tiles import Tile

SCALE_KEYS = tl.constexpr(KEY_BLOCK)


@triton.jit
def _step(
    acc, peak, total, codes, q_scale, k_codes, scales, v_codes, kv_head, first, v_first, n, last_key,
    COLS: tl.constexpr, N: tl.constexpr, MASKED: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """The tile of N keys from n on into the running softmax."""
    s = tl.dot(codes, k_codes.load([first + n, 0]).T).to(tl.float32)
    key = n + tl.arange(0, N)
    if MASKED or N > SCALE_KEYS:
        s = s * (q_scale * tl.load(scales + key // SCALE_KEYS))[None, :]
        if MASKED:
            s = tl.where(key[None, :] <= last_key[:, None], s, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(s, 1))
        p = tl.math.exp2(s - new_peak[:, None])
    else:
        scale = q_scale * tl.load(scales + n // SCALE_KEYS)
        new_peak = tl.maximum(peak, tl.max(s, 1) * scale)
        p = tl.math.exp2(s * scale - new_peak[:, None])
    shrink = tl.math.exp2(peak - new_peak)
    total = total * shrink + tl.sum(p, 1)
    acc = acc * shrink[:, None]
    if FP8:
        acc += tl.dot((p * 256.0).to(tl.float8e4nv), v_codes.load([kv_head * COLS, v_first + n]).T)
    else:
        acc = tl.dot(p.to(tl.float16), v_codes.load([v_first + n, 0]), acc)
    return acc, new_peak, total


@triton.jit
def _attend_kernel(
    out, q_codes, q_scales, k_codes, k_scales, v_codes, v_scales, query_tiles, slots, out_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, COLS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, FP8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0)
    head = item % HEADS
    work = query_tiles + item // HEADS * (2 + SEQUENCE_FIELDS)
    index, start, first_row = tl.load(work), tl.load(work + 1), tl.load(work + 2)
    new, prefix, slot = tl.load(work + 3), tl.load(work + 4), tl.load(work + 6)
    kv_head = head // GROUP
    first = kv_head * slots + slot
    v_first = slot if FP8 else first

    line = tl.arange(0, M)
    row = start + line
    col = tl.arange(0, COLS)
    codes = tl.load(q_codes + (item.to(tl.int64) * M + line)[:, None] * COLS + col[None, :])
    q_scale = tl.load(q_scales + item)
    last_key = prefix + row
    whole = (prefix + start + 1) // N * N
    end = tl.cdiv(tl.minimum(prefix + start + M, prefix + new), N) * N
    acc = tl.zeros([M, COLS], tl.float32)
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    scales = k_scales + first // SCALE_KEYS
    for n in tl.range(0, whole, N, num_stages=STAGES):
        acc, peak, total = _step(
            acc, peak, total, codes, q_scale, k_codes, scales, v_codes, kv_head, first, v_first, n, last_key,
            COLS, N, False, FP8,
        )  # fmt: skip
    for n in tl.range(whole, end, N, num_stages=STAGES):
        acc, peak, total = _step(
            acc, peak, total, codes, q_scale, k_codes, scales, v_codes, kv_head, first, v_first, n, last_key,
            COLS, N, True, FP8,
        )  # fmt: skip

    v_scale = tl.load(v_scales + (index * (HEADS // GROUP) + kv_head) * COLS + col)
    if FP8:
        v_scale = v_scale * 0.00390625
    acc = acc / total[:, None] * v_scale[None, :]
    token = (first_row + row).to(tl.int64)[:, None]
    valid = (row < new)[:, None] & (col < HEAD_DIM)[None, :]
    tl.store(out + token * out_stride + (head * HEAD_DIM + col)[None, :], acc.to(out.dtype.element_ty), mask=valid)


def describe(operands: Operands, tile: Tile) -> tuple[Any, Any, Any]:
    """Q's, K's and V's codes as the kernel of `tile` takes them: descriptors for the copy engine, Q as it is if not."""
    if tile.kernel == "gluon":
        from sage_eval.attention.kernels import attend_sm90  # Gluon is there on CUDA only

        return attend_sm90.describe(operands)
    cols, fp8 = operands.v_scales.shape[2], operands.v_codes.dtype == torch.float8_e4m3fn
    k_block, v_block = ([128, cols], [cols, 128]) if fp8 else ([KEY_BLOCK, cols], [KEY_BLOCK, cols])
    return (
        operands.q_codes,
        TensorDescriptor.from_tensor(operands.k_codes, k_block),
        TensorDescriptor.from_tensor(operands.v_codes, v_block),
    )


def attend(
    out: Tensor, operands: Operands, described: tuple[Any, Any, Any], plan: Plan, *, tile: Tile, launch: Launch
) -> None:
    """Fill `out` [tokens, Hq, D] with attention over the operands that `quantise` made.

    Args:
        out: written for every row that the plan serves, and no other.
        operands: `quantise`'s result for the same plan.
        described: `describe` of these operands and `tile`.
        plan: the batch.
        tile: launch options; "gluon" with FP8 needs operands that were interleaved.
        launch: how the kernel is started.
    """
    heads, dim = out.shape[1:]
    kv_heads, cols = operands.v_scales.shape[1:]
    fp8 = operands.v_codes.dtype == torch.float8_e4m3fn
    q_tiles, k_tiles, v_tiles = described
    arguments = (
        out, q_tiles, operands.q_scales, k_tiles, operands.k_scales, v_tiles, operands.v_scales, plan.query_tiles,
        plan.slots, out.stride(0),
    )  # fmt: skip
    size = {"HEADS": heads, "GROUP": heads // kv_heads, "HEAD_DIM": dim, "COLS": cols}
    options = {"num_warps": tile.warps} | ({"maxnreg": tile.registers} if tile.registers else {})
    items = len(operands.q_scales)
    if tile.kernel == "gluon":
        from sage_eval.attention.kernels.attend_sm90 import attend_kernel

        launch(attend_kernel, 2 * items, *arguments, options=options | {"launch_pdl": True}, **size, FP8=fp8)
    else:
        launch(
            _attend_kernel, items, *arguments, options=options,
            **size, M=QUERY_BLOCK, N=128 if fp8 else KEY_BLOCK, FP8=fp8, STAGES=tile.stages,
        )  # fmt: skip
