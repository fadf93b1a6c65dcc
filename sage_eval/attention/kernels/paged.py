"""Paged SageAttention for one prefill batch: quantise, then attend. Needs torch and Triton only."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from sage_eval.attention.kernels.attend import attend, describe
from sage_eval.attention.kernels.launch import Launch
from sage_eval.attention.kernels.plan import Plan
from sage_eval.attention.kernels.quantise import Memory, allocate, quantise
from sage_eval.attention.kernels.tiles import Tile, choose_tile

TOP = {"int8-fp16": 127, "int8-fp8": 127, "int4-fp16": 7}
"""The largest code of each variant."""

KEPT_SLOTS = 2048
"""A batch of no more slots (each sequence's keys, rounded up to 128) keeps the operands' memory from layer to layer:
6 MiB at 8 KV heads of 128. Beyond it the GPU has enough to do while memory is found anew, and the rest of a layer shall
have that memory too."""


@dataclass
class _Layers:
    """What the layers of a batch whose tensors are of one kind have in common."""

    tile: Tile
    launch: Launch = field(default_factory=Launch)
    memory: Memory | None = None
    described: tuple[Any, Any] | None = None


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
    kind = (variant, smooth, q.shape, k.shape, *_kind((q, k, v, out, k_cache, v_cache, kv_indices, shift)))
    layers = plan.layers.get(kind)
    if layers is None:
        cols, group = triton.next_power_of_2(q.shape[2]), q.shape[1] // k.shape[1]
        layers = plan.layers[kind] = _Layers(choose_tile(_architecture(q.device), cols, group, fp8))
    memory = layers.memory or allocate(k, plan, fp8=fp8)
    described = layers.described or describe(memory.operands, layers.tile)
    if plan.slots <= KEPT_SLOTS:
        layers.memory, layers.described = memory, described
    operands = quantise(
        k, v, k_cache, v_cache, kv_indices, plan, top=top, fp8=fp8, interleave=fp8 and layers.tile.kernel == "gluon",
        smooth=smooth, shift=shift, memory=memory, launch=layers.launch,
    )  # fmt: skip
    attend(q, out, operands, described, plan, scale=scale, top=top, tile=layers.tile, launch=layers.launch)


def _kind(tensors: Iterable[Tensor | None]) -> list[Any]:
    """What a compiled kernel depends on: dtype, stride and whether the address is a multiple of 16."""
    return [x if x is None else (x.dtype, x.stride(0), x.data_ptr() % 16 == 0) for x in tensors]


def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return 0  # Triton's interpreter
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor
