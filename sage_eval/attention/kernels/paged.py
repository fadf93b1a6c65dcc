"""Paged SageAttention for one prefill batch: quantise, then attend. Needs torch and Triton only."""

import torch
import triton
from torch import Tensor

from sage_eval.attention.kernels.attend import attend
from sage_eval.attention.kernels.plan import Plan
from sage_eval.attention.kernels.quantise import quantise
from sage_eval.attention.kernels.tiles import choose_tile

TOP = {"int8-fp16": 127, "int8-fp8": 127, "int4-fp16": 7}
"""The largest code of each variant."""


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_indices: Tensor,
    plan: Plan,
    *,
    scale: float,
    variant: str = "int8-fp16",
    smooth: bool = True,
    shift: Tensor | None = None,
) -> None:
    """Causal attention of the new tokens over cached prefix and new tokens, as `numerics.attention` defines it.

    Args:
        q: queries of the new tokens of all sequences, [tokens, Hq, D], fp16 or bf16; D is 64, 96 or 128.
        k: their keys, [tokens, Hkv, D], heads and channels contiguous.
        v: their values, like `k`.
        out: [tokens, Hq, D]; rows of sequences that the plan does not serve are left alone.
        k_cache: the key pool, [slots, Hkv, D], in k's dtype.
        v_cache: the value pool.
        kv_indices: pool rows of all prefixes, one sequence after the other.
        plan: the batch (`make_plan`).
        scale: softmax scale.
        variant: "int8-fp16", "int8-fp8" or "int4-fp16".
        smooth: shift K before quantisation.
        shift: [Hkv, D], what to shift by; each sequence's own mean by default.
    """
    if not len(plan.query_tiles):
        return
    top, fp8 = TOP[variant], variant == "int8-fp8"
    cols, group = triton.next_power_of_2(q.shape[2]), q.shape[1] // k.shape[1]
    tile = choose_tile(_architecture(q.device), cols, group, fp8)
    operands = quantise(
        k, v, k_cache, v_cache, kv_indices, plan,
        top=top, fp8=fp8, interleave=fp8 and tile.kernel == "gluon", smooth=smooth, shift=shift,
    )  # fmt: skip
    attend(q, out, operands, plan, scale=scale, top=top, tile=tile)


def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return 0  # Triton's interpreter
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor
