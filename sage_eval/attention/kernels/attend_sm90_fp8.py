"""`attend` for Hopper with FP8 P·V, in steps of 64 keys: each product is a fresh sum, promoted to fp32 at once.

P leaves the Q·K product in the order of its accumulator. V's keys are stored in that order (`interleave` in
`quantise`), so that P becomes an operand by renaming registers, without an exchange between threads.
"""

# Kernels have no Python types to check, and take what a launch passes.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913, PLR0917

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from sage_eval.attention.kernels.attend_sm90 import _codes_of_q, _fetch, _settle, _work

HALF = gl.constexpr(64)


@gluon.jit
def _softmax(s, peak, total, scale, key, last_key, MASKED: gl.constexpr):
    """256 · P of a tile, and what the sums so far shrink by; `scale` is that of Q and K multiplied."""
    s = s.to(gl.float32)
    layout: gl.constexpr = s.type.layout
    if MASKED:
        cols = key + gl.arange(0, HALF, gl.SliceLayout(0, layout))
        s = gl.where(cols[None, :] <= last_key[:, None], s * scale, float("-inf"))
        new_peak = gl.maximum(peak, gl.max(s, 1))
        p = gl.exp2(s - (new_peak - 8.0)[:, None])
    else:
        new_peak = gl.maximum(peak, gl.max(s, 1) * scale)
        p = gl.exp2(s * scale - (new_peak - 8.0)[:, None])
    shrink = gl.exp2(peak - new_peak)
    total = total * shrink + gl.sum(p, 1)
    return p, new_peak, total, shrink


@gluon.jit
def _operand(p, LAYOUT: gl.constexpr):
    """P in e4m3 as the left operand: keys 8a + 2t + e of 16 become 4t + 2a + e, which moves no register."""
    p = p.to(gl.float8e4nv).reshape([64, 4, 2, 4, 2]).permute((0, 1, 3, 2, 4)).reshape([64, 64])
    return gl.convert_layout(p, gl.DotOperandLayout(0, LAYOUT, 4), assert_trivial=True)


@gluon.jit
def _product(p, v_tile, LAYOUT: gl.constexpr):
    """Start P·V of a tile, as a sum of its own."""
    cols: gl.constexpr = v_tile.shape[0]
    zero = gl.zeros([HALF, cols], gl.float32, LAYOUT)
    return warpgroup_mma(p, v_tile.permute((1, 0)), zero, use_acc=False, is_async=True)


@gluon.jit
def _walk(
    acc, shrink, peak, total, p, codes, q_scale, scales, last_key,
    k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, done, begin, end,
    S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Tiles [begin, end) of an item: Q·K and softmax of each, while P·V of the one before it runs."""
    for i in range(begin, end):
        stage = (done + i) % STAGES
        scale = q_scale * gl.load(scales + i)
        mbarrier.wait(k_ready.index(stage), (done + i) // STAGES & 1)
        zero = gl.zeros([HALF, HALF], gl.int32, S_LAYOUT)
        s = warpgroup_mma(codes, k_tiles.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
        before = (done + i - 1) % STAGES
        mbarrier.wait(v_ready.index(before), (done + i - 1) // STAGES & 1)
        part = _product(p, v_tiles.index(before), O_LAYOUT)
        s = warpgroup_mma_wait(1, [s])
        mbarrier.arrive(k_free.index(stage))
        next_p, peak, total, next_shrink = _softmax(s, peak, total, scale, i * 64, last_key, MASKED)
        p = _operand(next_p, O_LAYOUT)
        total = _settle(total)
        part = warpgroup_mma_wait(0, [part])
        mbarrier.arrive(v_free.index(before))
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None] + part
        shrink = next_shrink
    return acc, shrink, peak, total, p


@gluon.jit
def _consume(
    q, out, k_scales, v_scales, k_tiles, v_tiles, k_ready, k_free, v_ready, v_free,
    query_tiles, factor, slots, q_stride, out_stride, items, ROW0: gl.constexpr,
    HEADS: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, TOP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """A warpgroup: 64 query rows of every item in turn."""
    keys: gl.constexpr = k_tiles.shape[1]
    cols: gl.constexpr = v_tiles.shape[1]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, cols, 32])
    done = 0
    for item in range(gl.program_id(0), items, gl.num_programs(0)):
        index, start, token, new, prefix, slot, tiles = _work(query_tiles, item, keys, HEADS)
        head = item % HEADS
        kv_head = head // GROUP
        whole = (prefix + start + 1) // keys
        last_key = prefix + start + ROW0 + gl.arange(0, HALF, gl.SliceLayout(1, s_layout))
        codes, q_scale = _codes_of_q(q, token, start, new, q_stride, head * HEAD_DIM, factor, ROW0, HEAD_DIM, cols, TOP)
        codes = gl.convert_layout(codes, gl.DotOperandLayout(0, s_layout, 4))

        acc = gl.zeros([HALF, cols], gl.float32, o_layout)
        peak = gl.full([HALF], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
        scales = k_scales + (kv_head * slots + slot) // 64
        total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, s_layout))
        scale = q_scale * gl.load(scales)
        mbarrier.wait(k_ready.index(done % STAGES), done // STAGES & 1)
        zero = gl.zeros([HALF, HALF], gl.int32, s_layout)
        tile = k_tiles.index(done % STAGES).permute((1, 0))
        s = warpgroup_mma_wait(0, [warpgroup_mma(codes, tile, zero, use_acc=False, is_async=True)])
        mbarrier.arrive(k_free.index(done % STAGES))
        p, peak, total, shrink = _softmax(s, peak, total, scale, 0, last_key, True)
        p = _operand(p, o_layout)
        acc, shrink, peak, total, p = _walk(
            acc, shrink, peak, total, p, codes, q_scale, scales, last_key,
            k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, done, 1, whole, s_layout, o_layout, STAGES, False,
        )  # fmt: skip
        acc, shrink, peak, total, p = _walk(
            acc, shrink, peak, total, p, codes, q_scale, scales, last_key,
            k_tiles, v_tiles, k_ready, k_free, v_ready, v_free, done, gl.maximum(whole, 1), tiles,
            s_layout, o_layout, STAGES, True,
        )  # fmt: skip
        done += tiles
        last = (done - 1) % STAGES
        mbarrier.wait(v_ready.index(last), (done - 1) // STAGES & 1)
        part = warpgroup_mma_wait(0, [_product(p, v_tiles.index(last), o_layout)])
        mbarrier.arrive(v_free.index(last))
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, o_layout))[:, None] + part

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
    v_tiles = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, COLS, keys], v_codes.layout)
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
                HEADS, GROUP, STAGES, True,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
