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
from sage_eval.attention.guard import CheckedCalls, check_settings
from sage_eval.attention.kernels.package import package_attention, package_version
from sage_eval.attention.kernels.paged import paged_attention
from sage_eval.attention.kernels.plan import Plan, make_plan
from sage_eval.attention.routing import EXACT, Route, route
from sage_eval.attention.settings import AttentionSettings
from sage_eval.attention.vectors import vectors_for
from sage_eval.seams import neutral

# Options of SGLang's kernels: the value that asks for nothing, or `...` where only the way to the result changes.
_PLAIN: dict[str, Any] = {
    "k_scale": 1.0, "v_scale": 1.0, "logit_cap": 0.0, "sinks": None, "xai_temperature_len": -1,
    "score_mod": None, "aux_tensors": None, "page_size": ...,
}  # fmt: skip
_EXTEND = _PLAIN | {
    "custom_mask": None, "is_causal": True, "sliding_window_size": -1, "window_kv_offsets": None,
    "lse_extend": None, "skip_prefix": False, "skip_extend": False, "extend_seq_lens_cpu": ...,
    "identity_kv_indices": False,
}  # fmt: skip


class SageAttnBackend(CheckedCalls, TritonAttnBackend):  # type: ignore[misc]
    """SageAttention for prefill, with or without a prefix; decode is the parent's exact kernel."""

    needs_cpu_seq_lens = True  # the plan is made from host-side lengths

    def __init__(self, runner: Any, settings: AttentionSettings) -> None:
        super().__init__(runner)
        check_settings(settings, torch.cuda.get_device_capability(), str(runner.dtype).removeprefix("torch."))
        self.settings = settings
        self.shifts, self.balances = vectors_for(runner, settings)
        self._package = package_version() if settings.kernel == "package" else ""
        self._exact_extend: Callable[..., None] = self.extend_attention_fwd  # type: ignore[has-type]
        self.extend_attention_fwd = torch.compiler.disable(self._extend)  # type: ignore[no-untyped-call]
        self._lengths: tuple[list[int], list[int]] = ([], [])
        self._routes: list[Route] = []
        self._counts: dict[tuple[Phase, str], int] = {}
        self._plan: Plan | None = None
        self._layers_left = 0

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Eager steps, and prefill between the pieces of a breakable graph: make the plan of a prefill batch."""
        super().init_forward_metadata(forward_batch)
        mode = forward_batch.forward_mode
        if mode.is_idle():
            return
        if mode.is_decode():
            COUNTER.add("decode", EXACT, forward_batch.batch_size * COUNTER.layers)
            return
        prefixes, news = (_on_host(forward_batch, name) for name in ("extend_prefix_lens", "extend_seq_lens"))
        self._lengths = prefixes, news
        self._routes, self._counts = route(prefixes, news, self.settings, self._package)
        self._layers_left = COUNTER.layers
        served = [r.kernel.startswith("sage-paged") for r in self._routes for _ in range(r.first, r.last)]
        self._plan = make_plan(prefixes, news, self.device, served) if any(served) else None

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Before a decode graph is replayed; Python does not run inside it, so its tokens are counted here."""
        super().init_forward_metadata_out_graph(forward_batch, in_capture)
        mode = getattr(forward_batch, "actual_forward_mode", forward_batch.forward_mode)
        if not in_capture and mode.is_decode():
            rows = forward_batch.batch_size - getattr(forward_batch, "num_padding", 0)
            COUNTER.add("decode", EXACT, rows * COUNTER.layers)

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
        mask, causal, _, _, k_scale, v_scale, scale = rest
        asked = {"custom_mask": mask, "is_causal": causal, "k_scale": k_scale, "v_scale": v_scale}
        neutral(options | asked, _EXTEND, "prefill")
        smooth = self.settings.smooth_k != "off"
        shift, balance = self.shifts.get(self.layer_id), self.balances.get(self.layer_id)
        if self._plan is not None:
            paged_attention(
                q, k, v, out, k_cache, v_cache, kv_indices, self._plan,
                scale=scale, variant=self.settings.variant, smooth=smooth, shift=shift,
                balance=balance,
            )  # fmt: skip
            self._layers_left -= 1
            if not self._layers_left:
                self._plan.layers.clear()  # the memory that a short batch keeps is not held until the next prefill
        for kernel, first, last in self._routes:
            if kernel == EXACT:
                if "extend_seq_lens_cpu" in options:
                    options["extend_seq_lens_cpu"] = self._lengths[1][first:last]
                self._exact_extend(
                    q, k, v, out, k_cache, v_cache, qo_indptr[first : last + 1], kv_indptr[first : last + 1],
                    kv_indices, *rest, **options,
                )  # fmt: skip
            elif not kernel.startswith("sage-paged"):
                gathers, starts = ([0, *accumulate(lengths)] for lengths in self._lengths)
                for i in range(first, last):
                    rows = slice(starts[i], starts[i + 1])
                    if kernel.startswith("sage-package"):
                        package_attention(q[rows], k[rows], v[rows], out[rows], scale=scale, smooth=smooth)
                        continue
                    slots = kv_indices[gathers[i] : gathers[i + 1]]
                    out[rows] = numerics.attention(
                        q[rows], torch.cat([k_cache[slots], k[rows]]), torch.cat([v_cache[slots], v[rows]]),
                        scale=scale, variant=self.settings.variant, smooth_k=self.settings.smooth_k, k_shift=shift,
                        balance=balance,
                    )  # fmt: skip
        for (phase, kernel), tokens in self._counts.items():
            COUNTER.add(phase, kernel, tokens)


def _on_host(forward_batch: Any, name: str) -> list[int]:
    lengths = getattr(forward_batch, f"{name}_cpu")
    if lengths is None:  # only where SGLang keeps no copy on the host: this waits for the GPU
        lengths = getattr(forward_batch, name)
    return lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
