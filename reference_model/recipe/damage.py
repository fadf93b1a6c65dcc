"""Damaged attention inside transformers, without an engine: the control that the evaluation must be able to see.

`sage_eval.attention.numerics` takes the place of attention through transformers' AttentionInterface, after the rotary
positions, so Q, K and V are what a backend would get.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from sage_eval.attention.numerics import attention

Damage = Literal["int8-fp16", "int4-fp16", "exact"]


def register(variant: Damage) -> str:
    """Make `attn_implementation` of the returned name compute with `variant`, K smoothed over each sequence."""

    def replaced(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        return batched(query, key, value, attention_mask, scaling, variant), None

    name = f"sage-{variant}"
    AttentionInterface.register(name, replaced)
    AttentionMaskInterface.register(name, _padding)
    return name


def batched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, variant: Damage) -> Tensor:
    """Prefill of right-padded sequences: q [B, Hq, T, D], k and v [B, Hkv, T, D], mask [B, T] → [B, T, Hq, D].

    Sequences become heads of one longer batch, which `numerics` treats each alone. Padding is made invisible: K's mean
    is that of real keys, and padded rows are what adds nothing to a block's largest value.
    """
    rows, heads, length, size = q.shape
    real = torch.ones(rows, length, device=q.device) if mask is None else mask.to(q.device).float()
    real = real[:, None, :, None]
    shift = (k.float() * real).sum(2) / real.sum(2)  # [B, Hkv, D]
    k = torch.where(real > 0, k.float(), shift[:, :, None])
    q, v = q.float() * real, v.float() * real
    as_heads = (x.permute(2, 0, 1, 3).reshape(length, -1, size) for x in (q, k, v))
    out = attention(*as_heads, scale=scale, variant=variant, smooth_k="static", k_shift=shift.reshape(-1, size))
    return out.view(length, rows, heads, size).transpose(0, 1).to(q.dtype)


def _padding(*sizes: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The padding mask as it came; causality is the attention's own."""
    return attention_mask
