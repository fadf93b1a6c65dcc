"""Paged SageAttention for one prefill batch: quantise, then attend. Needs torch and Triton only."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
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
14 MiB at 32 query and 8 KV heads of 128. Beyond it the GPU has enough to do while memory is found anew, and the rest of
a layer shall have that memory too."""


@dataclass
class _Layers:
    """What the layers of a batch whose tensors are of one kind have in common."""

    tile: Tile
    launch: Launch = field(default_factory=Launch)
    memory: Memory | None = None
    described: tuple[Any, Any, Any] | None = None


def paged_attention(  # noqa: PLR0913 - what the definition takes, and a cache
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
    balance: Tensor | None = None,
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
        balance: [Hkv, D] fp32, contiguous: what K is divided by and Q multiplied by.
    """
    if not len(plan.query_tiles):
        return
    fp8 = variant == "int8-fp8"
    tensors = q, k, v, out, k_cache, v_cache, kv_indices, shift, balance
    kind = (variant, smooth, q.shape, k.shape, *_kind(tensors))
    layers = plan.layers.get(kind)
    if layers is None:
        tile = choose_tile(_architecture(q.device), triton.next_power_of_2(q.shape[2]))
        layers = plan.layers[kind] = _Layers(tile)
    tile, gluon = layers.tile, layers.tile.kernel == "gluon"
    memory = layers.memory or allocate(q, k, plan, fp8=fp8)
    described = layers.described or describe(memory.operands, tile)
    if plan.slots <= KEPT_SLOTS:
        layers.memory, layers.described = memory, described
    operands = quantise(
        q, k, v, k_cache, v_cache, kv_indices, plan, scale=scale, top=TOP[variant], fp8=fp8,
        interleave=fp8 and gluon, smooth=smooth, shift=shift, balance=balance, early=gluon, memory=memory,
        launch=layers.launch,
    )  # fmt: skip
    attend(out, operands, described, plan, tile=tile, launch=layers.launch)


def _kind(tensors: Iterable[Tensor | None]) -> list[Any]:
    """What a compiled kernel depends on: dtype, stride and whether the address is a multiple of 16."""
    return [x if x is None else (x.dtype, x.stride(0), x.data_ptr() % 16 == 0) for x in tensors]


@cache
def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return 0  # Triton's interpreter
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor
