"""`attend` for Hopper, in Gluon: the same arithmetic as `attend.py`, with the warps' work laid out by hand.

A program stays on its multiprocessor and takes one item (128 query rows of a head) after the other, the longest first.
One warp fetches tiles of 128 keys through the tensor copy engine; two warpgroups own 64 query rows each. A warpgroup
starts Q·K of the next tile and P·V of this one before it computes the next softmax, and the two warpgroups drift
apart, so that the matrix units rarely wait for exp2.
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

HALF = gl.constexpr(64)
TINY = gl.constexpr(1.1754943508222875e-38)


def describe(operand: Tensor, block: list[int]) -> TensorDescriptor:
    """The descriptor through which the copy engine reads `operand` in tiles of `block`."""
    dtypes = {torch.int8: gl.int8, torch.float16: gl.float16, torch.float8_e4m3fn: gl.float8e4nv}
    layout = gl.NVMMASharedLayout.get_default_for(block, dtypes[operand.dtype])
    return TensorDescriptor.from_tensor(operand, block, layout)


@gluon.jit
def _work(query_tiles, item, KEYS: gl.constexpr, HEADS: gl.constexpr):
    """What an item (query tile, head) is: sequence, first row, first token, new and prefix tokens, slot, tiles."""
    row = query_tiles + item // HEADS * 8
    index, start, token = gl.load(row), gl.load(row + 1), gl.load(row + 2)
    new, prefix, slot = gl.load(row + 3), gl.load(row + 4), gl.load(row + 6)
    return index, start, token, new, prefix, slot, gl.cdiv(gl.minimum(prefix + start + 128, prefix + new), KEYS)


@gluon.jit
def _fetch(
    k_codes, v_codes, k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, query_tiles, slots, items,
    HEADS: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr, FP8: gl.constexpr,
):  # fmt: skip
    """The warp that fetches: K and V of every item in turn, as far ahead as there are free stages."""
    keys: gl.constexpr = k_tiles.shape[1]
    done = 0
    for item in range(gl.program_id(0), items, gl.num_programs(0)):
        _, _, _, _, _, slot, tiles = _work(query_tiles, item, keys, HEADS)
        first = item % HEADS // GROUP * slots + slot
        for i in range(tiles):
            stage = done % STAGES
            phase = (done // STAGES & 1) ^ 1
            mbarrier.wait(k_free.index(stage), phase)
            mbarrier.expect(k_ready.index(stage), k_codes.block_type.nbytes)
            tma.async_copy_global_to_shared(k_codes, [first + i * keys, 0], k_ready.index(stage), k_tiles.index(stage))
            mbarrier.wait(v_free.index(stage), phase)
            mbarrier.expect(v_ready.index(stage), v_codes.block_type.nbytes)
            if FP8:  # V lies transposed, all sequences side by side
                corner = [item % HEADS // GROUP * v_tiles.shape[1], slot + i * keys]
                tma.async_copy_global_to_shared(v_codes, corner, v_ready.index(stage), v_tiles.index(stage))
            else:
                corner = [first + i * keys, 0]
                tma.async_copy_global_to_shared(v_codes, corner, v_ready.index(stage), v_tiles.index(stage))
            done += 1


@gluon.jit
def _dots(codes, k_tile, LAYOUT: gl.constexpr):
    """Start Q·K of one tile: two products of 64 rows and 64 keys."""
    zero = gl.zeros([HALF, HALF], gl.int32, LAYOUT)
    left = warpgroup_mma(codes, k_tile.slice(0, 64).permute((1, 0)), zero, use_acc=False, is_async=True)
    right = warpgroup_mma(codes, k_tile.slice(64, 64).permute((1, 0)), zero, use_acc=False, is_async=True)
    return left, right


@gluon.jit
def _softmax(left, right, peak, total, scale_left, scale_right, key, last_key, MASKED: gl.constexpr):
    """P of a tile in two halves, and what the sums so far shrink by; scales are those of Q and K multiplied."""
    left = left.to(gl.float32)
    right = right.to(gl.float32)
    layout: gl.constexpr = left.type.layout
    if MASKED:
        cols = key + gl.arange(0, HALF, gl.SliceLayout(0, layout))
        left = gl.where(cols[None, :] <= last_key[:, None], left * scale_left, float("-inf"))
        right = gl.where(cols[None, :] + HALF <= last_key[:, None], right * scale_right, float("-inf"))
        new_peak = gl.maximum(peak, gl.maximum(gl.max(left, 1), gl.max(right, 1)))
        left = gl.exp2(left - new_peak[:, None])
        right = gl.exp2(right - new_peak[:, None])
    else:
        tile_peak = gl.maximum(gl.max(left, 1) * scale_left, gl.max(right, 1) * scale_right)
        new_peak = gl.maximum(peak, tile_peak)
        left = gl.exp2(left * scale_left - new_peak[:, None])
        right = gl.exp2(right * scale_right - new_peak[:, None])
    shrink = gl.exp2(peak - new_peak)
    total = total * shrink + gl.sum(left + right, 1)
    return left, right, new_peak, total, shrink


@gluon.jit
def _settle(total):
    """A store that never happens but needs the sum: ptxas would move the exp2 behind the next wait otherwise."""
    return gl.inline_asm_elementwise(
        "{ .reg .pred p; .reg .u32 a; mov.u32 a, 0; setp.lt.f32 p, $1, 0f00000000; "
        "@p st.volatile.shared.f32 [a], $1; mov.f32 $0, $1; }",
        "=f,f",
        [total],
        dtype=gl.float32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _products(left, right, v_tile, acc, LAYOUT: gl.constexpr):
    """Start P·V of one tile."""
    operand: gl.constexpr = gl.DotOperandLayout(0, LAYOUT, 2)
    left = gl.convert_layout(left, operand)
    right = gl.convert_layout(right, operand)
    acc = warpgroup_mma(left, v_tile.slice(0, 64), acc, is_async=True)
    return warpgroup_mma(right, v_tile.slice(64, 64), acc, is_async=True)


@gluon.jit
def _walk(
    acc, peak, total, left, right, codes, q_scale, scales, last_key,
    k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, done, begin, end,
    S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Tiles [begin, end) of an item: Q·K and softmax of each, while P·V of the one before it runs."""
    for i in range(begin, end):
        stage = (done + i) % STAGES
        scale_left = q_scale * gl.load(scales + 2 * i)
        scale_right = q_scale * gl.load(scales + 2 * i + 1)
        mbarrier.wait(k_ready.index(stage), (done + i) // STAGES & 1)
        next_left, next_right = _dots(codes, k_tiles.index(stage), S_LAYOUT)
        before = (done + i - 1) % STAGES
        mbarrier.wait(v_ready.index(before), (done + i - 1) // STAGES & 1)
        acc = _products(left, right, v_tiles.index(before), acc, O_LAYOUT)
        next_left, next_right = warpgroup_mma_wait(2, [next_left, next_right])
        mbarrier.arrive(k_free.index(stage))
        p_left, p_right, peak, total, shrink = _softmax(
            next_left, next_right, peak, total, scale_left, scale_right, i * 128, last_key, MASKED
        )
        left = p_left.to(gl.float16)
        right = p_right.to(gl.float16)
        total = _settle(total)
        acc = warpgroup_mma_wait(0, [acc])
        mbarrier.arrive(v_free.index(before))
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None]
    return acc, peak, total, left, right


@gluon.jit
def _load_q(q, token, row, new, q_stride, offset, HEAD_DIM: gl.constexpr, COLS: gl.constexpr, LAYOUT: gl.constexpr):
    row += gl.arange(0, HALF, gl.SliceLayout(1, LAYOUT))
    col = gl.arange(0, COLS, gl.SliceLayout(0, LAYOUT))
    address = q + (token + row).to(gl.int64)[:, None] * q_stride + (offset + col)[None, :]
    return gl.load(address, mask=(row < new)[:, None] & (col < HEAD_DIM)[None, :], other=0.0)


@gluon.jit
def _codes_of_q(
    q, token, start, new, q_stride, offset, factor, ROW0: gl.constexpr,
    HEAD_DIM: gl.constexpr, COLS: gl.constexpr, TOP: gl.constexpr,
):  # fmt: skip
    """Codes of this warpgroup's 64 rows, with the scale of all 128: the other half is read for its maximum only."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // COLS, COLS // 8], [4, 1], [1, 0])
    own = _load_q(q, token, start + ROW0, new, q_stride, offset, HEAD_DIM, COLS, layout)
    other = _load_q(q, token, start + 64 - ROW0, new, q_stride, offset, HEAD_DIM, COLS, layout)
    own = own.to(gl.float32) * factor
    largest = gl.maximum(gl.abs(own), gl.abs(other.to(gl.float32) * factor))
    scale = gl.maximum(gl.div_rn(gl.max(gl.max(largest, 1), 0), TOP * 1.0), TINY)
    ratio = own * gl.div_rn(1.0, scale)
    codes = gl.where(ratio >= 0, ratio + 0.5, ratio - 0.5).to(gl.int8)
    return codes, scale


@gluon.jit
def _consume(
    q, out, k_scales, v_scales, k_tiles, v_tiles, k_ready, k_free, v_ready, v_free,
    query_tiles, factor, slots, q_stride, out_stride, items, ROW0: gl.constexpr,
    HEADS: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, TOP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """A warpgroup: 64 query rows of every item in turn."""
    keys: gl.constexpr = k_tiles.shape[1]
    cols: gl.constexpr = k_tiles.shape[2]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, cols, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, s_layout, 4)
    done = 0
    for item in range(gl.program_id(0), items, gl.num_programs(0)):
        index, start, token, new, prefix, slot, tiles = _work(query_tiles, item, keys, HEADS)
        head = item % HEADS
        kv_head = head // GROUP
        whole = (prefix + start + 1) // keys
        last_key = prefix + start + ROW0 + gl.arange(0, HALF, gl.SliceLayout(1, s_layout))
        codes, q_scale = _codes_of_q(q, token, start, new, q_stride, head * HEAD_DIM, factor, ROW0, HEAD_DIM, cols, TOP)
        codes = gl.convert_layout(codes, operand)

        acc = gl.zeros([HALF, cols], gl.float32, o_layout)
        peak = gl.full([HALF], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
        total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, s_layout))
        scales = k_scales + (kv_head * slots + slot) // 64
        scale_left = q_scale * gl.load(scales)
        scale_right = q_scale * gl.load(scales + 1)
        mbarrier.wait(k_ready.index(done % STAGES), done // STAGES & 1)
        first_left, first_right = _dots(codes, k_tiles.index(done % STAGES), s_layout)
        first_left, first_right = warpgroup_mma_wait(0, [first_left, first_right])
        mbarrier.arrive(k_free.index(done % STAGES))
        p_left, p_right, peak, total, _ = _softmax(
            first_left, first_right, peak, total, scale_left, scale_right, 0, last_key, True
        )
        left = p_left.to(gl.float16)
        right = p_right.to(gl.float16)
        acc, peak, total, left, right = _walk(
            acc, peak, total, left, right, codes, q_scale, scales, last_key,
            k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, done, 1, whole, s_layout, o_layout, STAGES, False,
        )  # fmt: skip
        acc, peak, total, left, right = _walk(
            acc, peak, total, left, right, codes, q_scale, scales, last_key,
            k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, done, gl.maximum(whole, 1), tiles,
            s_layout, o_layout, STAGES, True,
        )  # fmt: skip
        done += tiles
        last = (done - 1) % STAGES
        mbarrier.wait(v_ready.index(last), (done - 1) // STAGES & 1)
        acc = _products(left, right, v_tiles.index(last), acc, o_layout)
        acc = warpgroup_mma_wait(0, [acc])
        mbarrier.arrive(v_free.index(last))

        col = gl.arange(0, cols, gl.SliceLayout(0, o_layout))
        row = start + ROW0 + gl.arange(0, HALF, gl.SliceLayout(1, o_layout))
        total = gl.convert_layout(total, gl.SliceLayout(1, o_layout))
        v_scale = gl.load(v_scales + (index * (HEADS // GROUP) + kv_head) * cols + col)
        acc = acc * (1.0 / total)[:, None] * v_scale[None, :]
        address = out + (token + row).to(gl.int64)[:, None] * out_stride + (head * HEAD_DIM + col)[None, :]
        gl.store(address, acc.to(out.dtype.element_ty), mask=(row < new)[:, None] & (col < HEAD_DIM)[None, :])


@gluon.jit
def _attend_kernel(
    q, out, k_codes, k_scales, v_codes, v_scales, query_tiles, factor, slots, q_stride, out_stride, items,
    HEADS: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, COLS: gl.constexpr,
    TOP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    keys: gl.constexpr = k_codes.block_shape[0]
    k_tiles = gl.allocate_shared_memory(gl.int8, [STAGES, keys, COLS], k_codes.layout)
    v_tiles = gl.allocate_shared_memory(gl.float16, [STAGES, keys, COLS], v_codes.layout)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(i), count=1)
        mbarrier.init(v_ready.index(i), count=1)
        mbarrier.init(k_free.index(i), count=2)
        mbarrier.init(v_free.index(i), count=2)
    fence_async_shared()
    gl.warp_specialize(
        [
            (_consume, (
                q, out, k_scales, v_scales, k_tiles, v_tiles, k_ready, k_free, v_ready, v_free,
                query_tiles, factor, slots, q_stride, out_stride, items, gl.constexpr(0),
                HEADS, GROUP, HEAD_DIM, TOP, STAGES,
            )),
            (_consume, (
                q, out, k_scales, v_scales, k_tiles, v_tiles, k_ready, k_free, v_ready, v_free,
                query_tiles, factor, slots, q_stride, out_stride, items, gl.constexpr(64),
                HEADS, GROUP, HEAD_DIM, TOP, STAGES,
            )),
            (_fetch, (
                k_codes, v_codes, k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, query_tiles, slots, items,
                HEADS, GROUP, STAGES, False,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
