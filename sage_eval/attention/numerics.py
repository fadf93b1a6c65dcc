"""SageAttention in plain PyTorch: the definition that every kernel is tested against.

Numerics of SageAttention 1 (Zhang et al., arXiv:2410.02367, the per-block variant that sageattention 1.0.6 ships):

1. K is shifted by its mean over the sequence, in fp32. A shift common to all keys moves every logit of a query by the
   same amount, which softmax does not see, so nothing has to be undone.
2. Q times softmax scale times log2(e), in blocks of 128 rows counted from the first new token, and K, in blocks of 64
   keys counted from key 0, become integers per head and block: `scale = max|x| / 127`, `code = x · (1 / scale)` in
   fp32, rounded half away from zero. An all-zero block keeps a tiny positive scale and so stays finite.
   Before that, a balance may divide the channels of shifted K and multiply those of Q: their products stay the same,
   and an outlier that would set a block's scale is shared between both sides.
3. `S = codes_q · codes_k × scale_q × scale_k`; softmax is online over the key blocks, in base 2 and fp32.
4. P and V are fp16, their product over one block of 64 keys is an fp16 number, and blocks are summed in fp32. V is
   scaled down by a power of two, per head, where a block's sum could leave fp16's range.

The variant `int8-fp8` (in the manner of SageAttention 2, arXiv:2411.10958) has P in e4m3 scaled by 256 and V in e4m3
with one scale a channel, and takes 128 keys to a step of the softmax. Hopper's matrix units sum FP8 products with about
14 significant bits: after every 32 keys (one instruction) the running sum is cut to 13 fraction bits here, and after a
step it is promoted to fp32. What the hardware does within an instruction is not modelled.

Nothing here is tuned for a GPU, but a CPU engine runs on it: for each query block one loop over groups of key blocks,
all heads at once. Integer codes are multiplied as fp32, exactly (127 · 127 · 128 < 2^24).
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad

if TYPE_CHECKING:
    from sage_eval.attention.settings import Smoothing, Variant

QUERY_BLOCK = 128
KEY_BLOCK = 64
FP8_STEP = 128  # keys of one step of the softmax, and of one sum of P · V, in int8-fp8; KEY_BLOCK in the others
LOG2_E = math.log2(math.e)
FP8_MAX = 448.0
FP8_P_SCALE = 256.0  # a power of two: P in [0, 1] uses e4m3's range without another rounding
_BITS = {"int8-fp16": 8, "int8-fp8": 8, "int4-fp16": 4}
_GROUP_ELEMENTS = {"cpu": 1 << 18}  # logits held at once: small enough for a cache there, to hide Python elsewhere


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    variant: "Variant" = "int8-fp16",
    smooth_k: "Smoothing" = "sequence",
    causal: bool = True,
    k_shift: Tensor | None = None,
    balance: Tensor | None = None,
) -> Tensor:
    """Attention of one sequence.

    Args:
        q: queries of the new tokens, [Tq, Hq, D], any floating dtype.
        k: keys of the whole sequence (prefix and new tokens), [Tk, Hkv, D]; Hq is a multiple of Hkv (GQA).
        v: values, like `k`.
        scale: softmax scale, usually D ** -0.5.
        variant: "exact" (nothing quantised, fp32), "int8-fp16", "int8-fp8" or "int4-fp16".
        smooth_k: what K is shifted by: its own mean, `k_shift`, or nothing.
        causal: query i sees keys 0 … Tk - Tq + i (aligned to the end, as a cached prefix needs); else all keys.
        k_shift: [Hkv, D], for smooth_k="static".
        balance: [Hkv, D], positive: what K's channels are divided by and those of the group's queries multiplied by.

    Returns:
        [Tq, Hq, D] in q's dtype.

    Raises:
        ValueError: shapes that do not fit, an unknown variant or smoothing, or a missing `k_shift`.
    """
    _check(q, k, v, variant, causal)
    if balance is not None and balance.shape != k.shape[1:]:
        raise ValueError(f"balance has shape {tuple(balance.shape)}, K's heads are {tuple(k.shape[1:])}")
    (tq, hq, dim), (tk, hkv, _) = q.shape, k.shape
    step = FP8_STEP if variant == "int8-fp8" else KEY_BLOCK
    steps = -(-tk // step)
    pad = steps * step - tk

    if variant == "exact":
        q_rows, k_cols = q.float() * (scale * LOG2_E), k.float()
        q_scales = q_rows.new_ones(tq, hq)
        k_scales = q_rows.new_ones(steps, hkv)
    else:
        bits = _BITS[variant]
        q_rows, q_scales = quantise_q(q, scale, bits, balance)
        k_cols, k_scales = quantise_k(k, _shift(k, smooth_k, k_shift), bits, balance)
        q_scales = q_scales.repeat_interleave(QUERY_BLOCK, 0)[:tq]
        k_scales = zero_pad(k_scales, (0, 0, 0, steps * step // KEY_BLOCK - len(k_scales)))
    v_rows, v_scale = _value_operand(v, variant)

    # Rows (query, head of the group), so that the rows of a query block are a view that one batched product takes.
    group = hq // hkv
    q_rows = q_rows.float().view(tq, hkv, group, dim).transpose(0, 1).reshape(hkv, tq * group, dim)
    q_scales = q_scales.view(tq, hkv, group).transpose(0, 1).reshape(hkv, tq * group, 1, 1)
    k_cols = zero_pad(k_cols.float(), (0, 0, 0, 0, 0, pad)).permute(1, 2, 0).contiguous()  # [Hkv, D, keys]
    v_rows = zero_pad(v_rows, (0, 0, 0, 0, 0, pad)).transpose(0, 1).reshape(hkv, steps, step, dim)
    last_key = torch.arange(tk - tq, tk) if causal else torch.full((tq,), tk - 1)

    out = torch.empty_like(q_rows)
    for start in range(0, tq, QUERY_BLOCK):
        rows = slice(start * group, (start + QUERY_BLOCK) * group)
        out[:, rows] = _attend_block(
            q_rows[:, rows], q_scales[:, rows], k_cols, k_scales, v_rows,
            last_key[start : start + QUERY_BLOCK], group, variant,
        )  # fmt: skip
    out.mul_(v_scale.unsqueeze(1))
    return out.view(hkv, tq, group, dim).transpose(0, 1).reshape(tq, hq, dim).to(q.dtype)


def _attend_block(
    q: Tensor, q_scales: Tensor, k_cols: Tensor, k_scales: Tensor, v_rows: Tensor, last_key: Tensor, group: int,
    variant: "Variant",
) -> Tensor:  # fmt: skip
    """The rows of one query block, over the key blocks that its last query sees.

    Nothing here, shapes included, depends on queries outside of the block or on later keys: with a fixed shift its bits
    are the same whether the sequence comes whole or in chunks that end on block borders.
    """
    hkv, count, dim = q.shape
    size = v_rows.shape[2]  # keys of a step
    seen = int(last_key[-1]) // size + 1
    acc, total = q.new_zeros(hkv, count, dim), q.new_zeros(hkv, count)
    peak = q.new_full((hkv, count), -math.inf)
    step = max(1, _GROUP_ELEMENTS.get(q.device.type, 1 << 24) // (hkv * count * size))
    for b0 in range(0, seen, step):
        b1 = min(b0 + step, seen)
        keys = slice(b0 * size, b1 * size)
        s = torch.bmm(q, k_cols[:, :, keys]).view(hkv, count, -1, KEY_BLOCK)
        if variant != "exact":
            s *= q_scales * k_scales[keys.start // KEY_BLOCK : keys.stop // KEY_BLOCK].T.reshape(hkv, 1, -1, 1)
        s = s.view(hkv, count, b1 - b0, size)
        _mask(s, last_key, keys, group)

        # The running maximum step by step, and what each step weighs once the group's last maximum is known.
        peaks = torch.cummax(torch.cat([peak[:, :, None], s.amax(-1)], -1), -1).values
        p = s.sub_(peaks[:, :, 1:, None]).exp2_()
        weights = torch.exp2(peaks - peaks[:, :, -1:])
        out = _block_products(p, v_rows[:, b0:b1], variant)  # [Hkv, blocks, rows, D]
        total = (weights * torch.cat([total[:, :, None], p.sum(-1)], -1)).sum(-1)
        acc *= weights[:, :, :1]
        acc += (out * weights[:, :, 1:].transpose(1, 2).unsqueeze(-1)).sum(1) if b1 - b0 > 1 else out[:, 0]
        peak = peaks[:, :, -1]
    return acc.div_(total.unsqueeze(-1))


def quantise_q(q: Tensor, scale: float, bits: int = 8, balance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes of q · scale · log2(e) · balance per head and 128 rows: q [T, H, D] → int8 [T, H, D], fp32 [⌈T/128⌉, H]."""
    rows = q.float() * (scale * LOG2_E)
    if balance is not None:
        rows = rows * balance.repeat_interleave(q.shape[1] // len(balance), 0)
    return _quantise(rows, QUERY_BLOCK, bits)


def quantise_k(k: Tensor, shift: Tensor | None, bits: int = 8, balance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes of (k - shift) / balance per head and 64 keys: k [T, H, D] → int8 [T, H, D], fp32 scales [⌈T/64⌉, H]."""
    rows = k.float() if shift is None else k.float() - shift.float()
    return _quantise(rows if balance is None else rows * balance.reciprocal(), KEY_BLOCK, bits)


def _quantise(x: Tensor, block: int, bits: int) -> tuple[Tensor, Tensor]:
    top = 2 ** (bits - 1) - 1
    length, heads, dim = x.shape
    blocks = zero_pad(x, (0, 0, 0, 0, 0, -length % block)).view(-1, block, heads, dim)
    largest = blocks.abs().amax((1, 3))
    # Divided by a tensor: CUDA multiplies by the reciprocal of a number, and bf16 values have many ties to upset.
    scales = (largest / torch.full_like(largest, top)).clamp_min(torch.finfo(torch.float32).tiny)
    ratio = blocks * scales.reciprocal()[:, None, :, None]
    codes = (ratio + torch.copysign(ratio.new_tensor(0.5), ratio)).to(torch.int8)  # the conversion truncates
    return codes.view(-1, heads, dim)[:length], scales


def _shift(k: Tensor, smooth_k: "Smoothing", k_shift: Tensor | None) -> Tensor | None:
    if smooth_k == "sequence":
        return k.float().mean(0)
    if smooth_k == "off":
        return None
    if smooth_k != "static":
        raise ValueError(f"smooth_k={smooth_k!r} is not one of sequence, static, off")
    if k_shift is None:
        raise ValueError("smooth_k='static' needs k_shift [Hkv, D]: pass one, or use smooth_k='sequence'")
    if k_shift.shape != k.shape[1:]:
        raise ValueError(f"k_shift has shape {tuple(k_shift.shape)}, K's heads are {tuple(k.shape[1:])}")
    return k_shift


def _value_operand(v: Tensor, variant: "Variant") -> tuple[Tensor, Tensor]:
    """V as the matrix unit sees it (in fp32), and what the output is multiplied by, [Hkv, 1 or D]."""
    v = v.float()
    if variant == "exact":
        return v, v.new_ones(v.shape[1], 1)
    if variant == "int8-fp8":
        largest = v.abs().amax(0)
        scale = (largest / torch.full_like(largest, FP8_MAX)).clamp_min(torch.finfo(torch.float32).tiny)
        return (v * scale.reciprocal()).to(torch.float8_e4m3fn).float(), scale / FP8_P_SCALE
    # |V| <= 512 keeps the sum of 64 products with P <= 1 inside fp16 (65,504); a power of two rounds nothing.
    exponent = torch.frexp(v.abs().amax((0, 2))).exponent.sub(9).clamp_min(0)
    scale = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent).unsqueeze(-1)
    return (v / scale).half().float(), scale


def _mask(s: Tensor, last_key: Tensor, keys: slice, group: int) -> None:
    """Set the logits of keys after each query's last one to -inf; s is [Hkv, queries · group, steps, keys a step]."""
    rows = int((last_key < keys.stop - 1).sum())  # last_key ascends: only the first rows can be cut
    if rows:
        hidden = (torch.arange(keys.start, keys.stop) > last_key[:rows, None]).to(s.device)
        s[:, : rows * group].view(len(s), rows, group, *s.shape[2:]).masked_fill_(
            hidden.view(1, rows, 1, *s.shape[2:]), -math.inf
        )


def _block_products(p: Tensor, v: Tensor, variant: "Variant") -> Tensor:
    """P · V a step, as the matrix unit rounds it: p [Hkv, rows, B, keys], v [Hkv, B, keys, D] → [Hkv, B, rows, D]."""
    p = p.transpose(1, 2)
    if variant == "exact":
        return p @ v
    if variant == "int8-fp8":
        p = (p * FP8_P_SCALE).to(torch.float8_e4m3fn).float()
        parts = zip(torch.split(p, 32, -1), torch.split(v, 32, -2), strict=True)
        first, second = next(parts)
        total = _cut(first @ second)
        for first, second in parts:
            total = _cut(total + first @ second)
        return total
    return (p.half().float() @ v).half().float()


def _cut(x: Tensor) -> Tensor:
    """Drop all but 13 fraction bits of fp32, toward zero."""
    return (x.contiguous().view(torch.int32) & ~0x3FF).view(torch.float32)


def _check(q: Tensor, k: Tensor, v: Tensor, variant: str, causal: bool) -> None:
    if variant != "exact" and variant not in _BITS:
        raise ValueError(f"variant={variant!r} is not one of exact, {', '.join(_BITS)}")
    if q.dim() != 3 or k.dim() != 3 or k.shape != v.shape or q.shape[2] != k.shape[2] or q.shape[1] % k.shape[1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q [Tq, Hq, D] and k, v [Tk, Hkv, D] with Hq a multiple of Hkv are needed, not {shapes}")
    if not len(q) or (len(k) < len(q) if causal else not len(k)):
        raise ValueError(f"{len(q)} queries and {len(k)} keys: causal attention needs at least as many keys")
