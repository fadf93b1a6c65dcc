"""The `sage_attn` backend on NVIDIA GPUs: SGLang's Triton backend with another prefill kernel.

`TritonAttnBackend` keeps the KV cache, the metadata, the CUDA graphs and decode, which is exact. Prefill goes through
its one attribute `extend_attention_fwd`, replaced here: new tokens and cached prefix in one pass over the paged cache.
With `decode=quantised` its `decode_attention_fwd` is replaced as well; graphs hold our kernels then.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from torch import Tensor

from sage_eval.attention import numerics
from sage_eval.attention.coverage import COUNTER, Phase
from sage_eval.attention.guard import CheckedCalls
from sage_eval.attention.kernels.decode import decode_attention
from sage_eval.attention.kernels.package import package_attention, package_version
from sage_eval.attention.kernels.paged import TOP, paged_attention
from sage_eval.attention.kernels.plan import Plan, make_plan
from sage_eval.attention.routing import EXACT, Route, decode_kernel, route
from sage_eval.attention.settings import AttentionSettings
from sage_eval.attention.shift import shifts_for
from sage_eval.errors import UsageError


class SageAttnBackend(CheckedCalls, TritonAttnBackend):  # type: ignore[misc]
    """SageAttention for prefill, with or without a prefix; decode is the parent's exact kernel, or ours by setting."""

    needs_cpu_seq_lens = True  # the plan is made from host-side lengths

    def __init__(self, runner: Any, settings: AttentionSettings) -> None:
        super().__init__(runner)
        _check(settings, runner.dtype)
        self.settings = settings
        self.shifts = shifts_for(runner, settings)
        self._package = package_version() if settings.kernel == "package" else ""
        self._exact_extend: Callable[..., None] = self.extend_attention_fwd  # type: ignore[has-type]
        self.extend_attention_fwd = torch.compiler.disable(self._extend)  # type: ignore[no-untyped-call]
        self._decode_kernel = decode_kernel(settings)
        if self._decode_kernel != EXACT:
            self.decode_attention_fwd = torch.compiler.disable(self._decode)  # type: ignore[no-untyped-call]
        self._lengths: tuple[list[int], list[int]] = ([], [])
        self._routes: list[Route] = []
        self._counts: dict[tuple[Phase, str], int] = {}
        self._plan: Plan | None = None

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Eager steps, and prefill between the pieces of a breakable graph: make the plan of a prefill batch."""
        super().init_forward_metadata(forward_batch)
        mode = forward_batch.forward_mode
        if mode.is_idle():
            return
        if mode.is_decode():
            COUNTER.add("decode", self._decode_kernel, forward_batch.batch_size * COUNTER.layers)
            return
        prefixes, news = (_on_host(forward_batch, name) for name in ("extend_prefix_lens", "extend_seq_lens"))
        self._lengths = prefixes, news
        self._routes, self._counts = route(prefixes, news, self.settings, self._package)
        served = [r.kernel.startswith("sage-paged") for r in self._routes for _ in range(r.first, r.last)]
        self._plan = make_plan(prefixes, news, self.device, served) if any(served) else None

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Before a decode graph is replayed; Python does not run inside it, so its tokens are counted here."""
        super().init_forward_metadata_out_graph(forward_batch, in_capture)
        mode = getattr(forward_batch, "actual_forward_mode", forward_batch.forward_mode)
        if not in_capture and mode.is_decode():
            rows = forward_batch.batch_size - getattr(forward_batch, "num_padding", 0)
            COUNTER.add("decode", self._decode_kernel, rows * COUNTER.layers)

    def _extend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        qo_indptr: Tensor,
        kv_indptr: Tensor,
        kv_indices: Tensor,
        *rest: Any,
        **options: Any,
    ) -> None:
        """In place of Triton's `extend_attention_fwd`, whose arguments these are: one layer of a prefill batch."""
        # rest: custom_mask, is_causal, mask_indptr, max_len_extend, k_scale, v_scale, sm_scale
        scale, smooth, shift = rest[6], self.settings.smooth_k != "off", self.shifts.get(self.layer_id)
        prefixes, news = self._lengths
        starts = [0, *accumulate(news)]
        gathers = [0, *accumulate(prefixes)]
        if self._plan is not None:
            paged_attention(
                q, k, v, out, k_cache, v_cache, kv_indices, self._plan,
                scale=scale, variant=self.settings.variant, smooth=smooth, shift=shift,
            )  # fmt: skip
        for kernel, first, last in self._routes:
            if kernel == EXACT:
                self._exact_extend(
                    q, k, v, out, k_cache, v_cache, qo_indptr[first : last + 1], kv_indptr[first : last + 1],
                    kv_indices, *rest, **options,
                )  # fmt: skip
            elif not kernel.startswith("sage-paged"):
                for i in range(first, last):
                    rows = slice(starts[i], starts[i + 1])
                    if kernel.startswith("sage-package"):
                        package_attention(q[rows], k[rows], v[rows], out[rows], scale=scale, smooth=smooth)
                        continue
                    slots = kv_indices[gathers[i] : gathers[i + 1]]
                    out[rows] = numerics.attention(
                        q[rows], torch.cat([k_cache[slots], k[rows]]), torch.cat([v_cache[slots], v[rows]]),
                        scale=scale, variant=self.settings.variant, smooth_k=self.settings.smooth_k, k_shift=shift,
                    )  # fmt: skip
        for (phase, kernel), tokens in self._counts.items():
            COUNTER.add(phase, kernel, tokens)

    def _decode(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        out: Tensor,
        kv_indptr: Tensor,
        kv_indices: Tensor,
        *rest: Any,
        **_: Any,
    ) -> None:
        """In place of Triton's `decode_attention_fwd`, whose arguments these are: one layer of a decode step."""
        # rest: attn_logits, attn_lse, num_kv_splits, max_kv_splits, sm_scale, k_scale, v_scale
        variant = self.settings.variant
        decode_attention(
            q, out, k_cache, v_cache, kv_indptr, kv_indices, scale=rest[4], top=TOP[variant],
            fp8=variant == "int8-fp8", smooth=self.settings.smooth_k != "off", shift=self.shifts.get(self.layer_id),
        )  # fmt: skip


def _on_host(forward_batch: Any, name: str) -> list[int]:
    lengths = getattr(forward_batch, f"{name}_cpu")
    if lengths is None:  # only where SGLang keeps no copy on the host: this waits for the GPU
        lengths = getattr(forward_batch, name)
    return lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)


def _check(settings: AttentionSettings, dtype: torch.dtype) -> None:
    if dtype not in (torch.float16, torch.bfloat16):
        raise UsageError(f"sage_attn cannot serve dtype={dtype} on CUDA: use dtype=bfloat16 or float16")
    if settings.decode == "quantised" and settings.min_tokens:
        raise UsageError(
            f"decode=quantised computes every sequence with one kernel on CUDA, also those below "
            f"min_tokens={settings.min_tokens}: use min_tokens=0 or decode=exact"
        )
    if settings.kernel == "package" and settings.smooth_k == "static":
        raise UsageError("kernel=package knows no fixed shift: use kernel=paged with smooth_k=static")
    if settings.kernel == "package" and settings.variant not in ("int8-fp16", "exact"):
        raise UsageError(f"kernel=package computes int8-fp16 only, not variant={settings.variant}: use kernel=paged")
    if settings.variant == "int8-fp8" and settings.kernel != "torch" and torch.cuda.get_device_capability() < (8, 9):
        raise UsageError("variant=int8-fp8 needs FP8 matrix units (compute capability 8.9 or later); use int8-fp16")
