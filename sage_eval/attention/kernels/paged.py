"""Paged SageAttention for one prefill batch: quantise, then attend. Needs torch and Triton only."""

from torch import Tensor

from sage_eval.attention.kernels.attend import attend
from sage_eval.attention.kernels.plan import Plan
from sage_eval.attention.kernels.quantise import quantise

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
    top = TOP[variant]
    operands = quantise(
        k, v, k_cache, v_cache, kv_indices, plan, top=top, fp8=variant == "int8-fp8", smooth=smooth, shift=shift
    )
    attend(q, out, operands, plan, scale=scale, top=top)
