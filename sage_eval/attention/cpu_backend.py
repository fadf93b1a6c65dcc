"""The `sage_attn` backend for hosts without a GPU: `numerics.py` over SGLang's paged KV pool.

SGLang's `TorchNativeAttnBackend` writes the KV cache and walks the batch; its two `_run_sdpa_…` methods are the only
places where attention is computed, and the only ones replaced here. Slow on purpose: it is the definition, served.
"""

from collections.abc import Mapping
from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

from sage_eval.attention import numerics
from sage_eval.attention.coverage import COUNTER, Phase
from sage_eval.attention.guard import CheckedCalls, check_settings
from sage_eval.attention.settings import AttentionSettings
from sage_eval.attention.vectors import vectors_for


def kernel_name(variant: str) -> str:
    """The name under which this implementation is counted, e.g. `sage-torch-int8-fp16`."""
    return f"sage-torch-{variant}"


class SageTorchAttnBackend(CheckedCalls, TorchNativeAttnBackend):  # type: ignore[misc]
    """SageAttention in plain PyTorch, for prefill (with or without a prefix) and decode."""

    shifts: Mapping[int, torch.Tensor] = {}  # by layer, with smooth_k=static
    balances: Mapping[int, torch.Tensor] = {}  # by layer, with a balance

    def __init__(self, runner: Any, settings: AttentionSettings) -> None:
        super().__init__(runner)
        check_settings(settings, None)
        self.settings = settings
        self.shifts, self.balances = vectors_for(runner, settings)

    def _run_sdpa_forward_extend(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        extend_prefix_lens: torch.Tensor,
        extend_seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Attention of the new tokens over prefix and new tokens; shapes as in the base class."""
        start = 0
        for request, length, prefix, new in zip(
            req_pool_indices.tolist(),
            seq_lens.tolist(),
            extend_prefix_lens.tolist(),
            extend_seq_lens.tolist(),
            strict=True,
        ):
            rows = slice(start, start + new)
            slots = req_to_token[request, :length]
            phase: Phase = "prefill_prefix" if prefix else "prefill"
            output[rows] = self._attend(query[rows], k_cache[slots], v_cache[slots], scaling, phase)
            start += new
        return output

    def _run_sdpa_forward_decode(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """One new token a sequence; shapes as in the base class."""
        for row, (request, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
            slots = req_to_token[request, :length]
            output[row : row + 1] = self._attend(
                query[row : row + 1], k_cache[slots], v_cache[slots], scaling, "decode"
            )
        return output

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, phase: Phase
    ) -> torch.Tensor:
        settings = self.settings
        exact = len(k) < settings.min_tokens or (phase == "decode" and settings.decode == "exact")
        variant = "exact" if exact else settings.variant
        COUNTER.add(phase, kernel_name(variant), len(q))
        return numerics.attention(
            q, k, v, scale=scaling or q.shape[-1] ** -0.5, variant=variant,
            smooth_k=settings.smooth_k, k_shift=self.shifts.get(self.layer_id),
            balance=self.balances.get(self.layer_id),
        )  # fmt: skip
