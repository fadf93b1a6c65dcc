"""`attend` for Hopper, in Gluon: the same arithmetic as `attend.py`, with tiles, registers and copies laid out by hand.

A program is one warpgroup and computes 64 query rows of a head in steps of 128 keys, one thing after the other: Q·K,
softmax, P·V. Nothing overlaps inside a program. It is kept small instead (168 registers a thread and 40 to 57 KB of
shared memory; 128 registers at head_dim 64), so that three or four share a multiprocessor and one's softmax runs while
another's products do. Each tile has one buffer, which the copy engine refills as soon as it was read.

FP8: P leaves Q·K in the order of the accumulator. V's keys are stored in that order (`interleave` in `quantise`), so
that P becomes an operand by renaming registers, and each step's P·V is a sum of its own, promoted to fp32.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from sage_eval.attention.kernels.plan import QUERY_BLOCK
from sage_eval.attention.kernels.quantise import Operands

ROWS = gl.constexpr(64)
KEYS = gl.constexpr(128)
HALF = gl.constexpr(64)  # keys that share a scale
BLOCK = gl.constexpr(QUERY_BLOCK)
_barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier  # as Triton 3.8 calls it


def describe(operands: Operands) -> tuple[TensorDescriptor, TensorDescriptor, TensorDescriptor]:
    """The descriptors through which the copy engine reads tiles of Q's, K's and V's codes."""
    cols = operands.v_scales.shape[2]
    v_block = [cols, 128] if operands.v_codes.dtype == torch.float8_e4m3fn else [128, cols]
    return (
        _describe(operands.q_codes, [64, cols]),
        _describe(operands.k_codes, [128, cols]),
        _describe(operands.v_codes, v_block),
    )


def _describe(codes: Tensor, block: list[int]) -> TensorDescriptor:
    dtypes = {torch.int8: gl.int8, torch.float16: gl.float16, torch.float8_e4m3fn: gl.float8e4nv}
    layout = gl.NVMMASharedLayout.get_default_for(block, dtypes[codes.dtype])
    return TensorDescriptor.from_tensor(codes, block, layout)


@gluon.jit
def _halves(s):
    """The left and right 64 keys of a tile; no value moves from its register."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HALF, 32])
    left, right = s.reshape([ROWS, 2, HALF]).permute((0, 2, 1)).split()
    return gl.convert_layout(left, layout, assert_trivial=True), gl.convert_layout(right, layout, assert_trivial=True)


@gluon.jit
def _softmax(
    s, peak, total, scale_left, scale_right, key, last_key, P_BITS: gl.constexpr, MASKED: gl.constexpr
):  # fmt: skip
    """2^P_BITS · P of a tile, and what the sums so far shrink by; scales are those of Q and K multiplied.

    Where nothing is masked, the maximum is taken of the integers: Hopper has one of three.
    """
    left, right = _halves(s)
    if MASKED:
        cols = key + gl.arange(0, HALF, gl.SliceLayout(0, left.type.layout))
        left = gl.where(cols[None, :] <= last_key[:, None], left.to(gl.float32) * scale_left, float("-inf"))
        right = gl.where(cols[None, :] + HALF <= last_key[:, None], right.to(gl.float32) * scale_right, float("-inf"))
        new_peak = gl.maximum(peak, gl.maximum(gl.max(left, 1), gl.max(right, 1)))
        base = (new_peak - P_BITS)[:, None]
        left = gl.exp2(left - base)
        right = gl.exp2(right - base)
    else:
        tops = gl.max(left, 1).to(gl.float32) * scale_left, gl.max(right, 1).to(gl.float32) * scale_right
        new_peak = gl.maximum(peak, gl.maximum(tops[0], tops[1]))
        base = (new_peak - P_BITS)[:, None]
        left = gl.exp2(left.to(gl.float32) * scale_left - base)
        right = gl.exp2(right.to(gl.float32) * scale_right - base)
    shrink = gl.exp2(peak - new_peak)
    total = total * shrink + gl.sum(left + right, 1)
    p = gl.join(left, right).permute((0, 2, 1)).reshape([ROWS, KEYS])
    return gl.convert_layout(p, s.type.layout, assert_trivial=True), new_peak, total, shrink


@gluon.jit
def _operand(p, FP8: gl.constexpr, LAYOUT: gl.constexpr):
    """P as the left operand. In e4m3, keys 8a + 2t + e of 16 become 4t + 2a + e, which moves no register."""
    if FP8:
        p = p.to(gl.float8e4nv).reshape([ROWS, KEYS // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4)).reshape([ROWS, KEYS])
        return gl.convert_layout(p, gl.DotOperandLayout(0, LAYOUT, 4), assert_trivial=True)
    else:
        return gl.convert_layout(p.to(gl.float16), gl.DotOperandLayout(0, LAYOUT, 2))


@gluon.jit
def _fetch(codes, tile, ready, row, col):
    """Start the copy of a tile; `ready` completes with it."""
    mbarrier.expect(ready, codes.block_type.nbytes)
    tma.async_copy_global_to_shared(codes, [row, col], ready, tile)


@gluon.jit
def _fetch_v(v_codes, tile, ready, kv_head, slots, slot, COLS: gl.constexpr, FP8: gl.constexpr):
    if FP8:  # V lies transposed, all sequences side by side
        _fetch(v_codes, tile, ready, kv_head * COLS, slot)
    else:
        _fetch(v_codes, tile, ready, kv_head * slots + slot, 0)


@gluon.jit
def _walk(
    acc, peak, total, q_tile, q_scale, scales, last_key, k_codes, v_codes, k_tile, v_tile, k_ready, v_ready,
    kv_head, slots, slot, begin, end, tiles,
    S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, COLS: gl.constexpr, FP8: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Tiles [begin, end) of `tiles`. K's scales are loaded a step ahead."""
    next_left = gl.load(scales + 2 * begin)
    next_right = gl.load(scales + 2 * begin + 1)
    for i in range(begin, end):
        scale_left = q_scale * next_left
        scale_right = q_scale * next_right
        mbarrier.wait(k_ready, i & 1)
        zero = gl.zeros([ROWS, KEYS], gl.int32, S_LAYOUT)
        s = warpgroup_mma(q_tile, k_tile.permute((1, 0)), zero, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, [s])
        following = scales + 2 * gl.minimum(i + 1, tiles - 1)
        next_left = gl.load(following)
        next_right = gl.load(following + 1)
        _barrier()  # all warps have read the tile
        if i + 1 < tiles:
            _fetch(k_codes, k_tile, k_ready, kv_head * slots + slot + (i + 1) * KEYS, 0)
        p, peak, total, shrink = _softmax(
            s, peak, total, scale_left, scale_right, i * KEYS, last_key, 8.0 if FP8 else 0.0, MASKED
        )
        p = _operand(p, FP8, O_LAYOUT)
        shrink = gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None]
        mbarrier.wait(v_ready, i & 1)
        if FP8:
            zero = gl.zeros([ROWS, COLS], gl.float32, O_LAYOUT)
            part = warpgroup_mma(p, v_tile.permute((1, 0)), zero, use_acc=False, is_async=True)
            acc = acc * shrink + warpgroup_mma_wait(0, [part])
        else:
            acc = warpgroup_mma_wait(0, [warpgroup_mma(p, v_tile, acc * shrink, is_async=True)])
        _barrier()
        if i + 1 < tiles:
            _fetch_v(v_codes, v_tile, v_ready, kv_head, slots, slot + (i + 1) * KEYS, COLS, FP8)
    return acc, peak, total


@gluon.jit
def attend_kernel(
    out, q_codes, q_scales, k_codes, k_scales, v_codes, v_scales, query_tiles, slots, out_stride,
    HEADS: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, COLS: gl.constexpr, FP8: gl.constexpr,
):  # fmt: skip
    """A program: 64 query rows of one head."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 32])
    half_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HALF, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLS, 32 if FP8 else 16])
    item = gl.program_id(0) // 2
    half = 1 - gl.program_id(0) % 2  # the later rows first: they see more keys
    head = item % HEADS
    kv_head = head // GROUP
    tile = query_tiles + item // HEADS * 8
    index, token, new, prefix = gl.load(tile), gl.load(tile + 2), gl.load(tile + 3), gl.load(tile + 4)
    slot = gl.load(tile + 6)
    start = gl.load(tile + 1) + half * ROWS
    if start < new:
        tiles = gl.cdiv(gl.minimum(prefix + start + ROWS, prefix + new), KEYS)
        whole = (prefix + start + 1) // KEYS
        q_tile = gl.allocate_shared_memory(gl.int8, [ROWS, COLS], q_codes.layout)
        k_tile = gl.allocate_shared_memory(gl.int8, [KEYS, COLS], k_codes.layout)
        v_tile = gl.allocate_shared_memory(v_codes.dtype, [COLS, KEYS] if FP8 else [KEYS, COLS], v_codes.layout)
        q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        k_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        v_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        mbarrier.init(q_ready, count=1)
        mbarrier.init(k_ready, count=1)
        mbarrier.init(v_ready, count=1)
        fence_async_shared()
        # Wait until the operands are written: this kernel starts before `quantise` has ended.
        gl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        _fetch(q_codes, q_tile, q_ready, item * BLOCK + half * ROWS, 0)
        _fetch(k_codes, k_tile, k_ready, kv_head * slots + slot, 0)
        _fetch_v(v_codes, v_tile, v_ready, kv_head, slots, slot, COLS, FP8)
        q_scale = gl.load(q_scales + item)
        scales = k_scales + (kv_head * slots + slot) // HALF
        last_key = prefix + start + gl.arange(0, ROWS, gl.SliceLayout(1, half_layout))
        acc = gl.zeros([ROWS, COLS], gl.float32, o_layout)
        peak = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, half_layout))
        total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, half_layout))
        mbarrier.wait(q_ready, 0)
        acc, peak, total = _walk(
            acc, peak, total, q_tile, q_scale, scales, last_key, k_codes, v_codes, k_tile, v_tile, k_ready, v_ready,
            kv_head, slots, slot, 0, whole, tiles, s_layout, o_layout, COLS, FP8, False,
        )  # fmt: skip
        acc, peak, total = _walk(
            acc, peak, total, q_tile, q_scale, scales, last_key, k_codes, v_codes, k_tile, v_tile, k_ready, v_ready,
            kv_head, slots, slot, whole, tiles, tiles, s_layout, o_layout, COLS, FP8, True,
        )  # fmt: skip

        col = gl.arange(0, COLS, gl.SliceLayout(0, o_layout))
        v_scale = gl.load(v_scales + (index * (HEADS // GROUP) + kv_head) * COLS + col)
        total = gl.convert_layout(total, gl.SliceLayout(1, o_layout))
        result = (acc * (1.0 / total)[:, None] * v_scale[None, :]).to(out.dtype.element_ty)
        lines: gl.constexpr = gl.BlockedLayout([1, 8], [256 // COLS, COLS // 8], [4, 1], [1, 0])
        row = start + gl.arange(0, ROWS, gl.SliceLayout(1, lines))
        col = gl.arange(0, COLS, gl.SliceLayout(0, lines))
        address = out + (token + row).to(gl.int64)[:, None] * out_stride + (head * HEAD_DIM + col)[None, :]
        inside = (row < new)[:, None] & (col < HEAD_DIM)[None, :]
        gl.store(address, gl.convert_layout(result, lines), mask=inside)
