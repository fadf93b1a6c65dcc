"""The prefill attention of a backend on the q, k and v of one whole sequence. Runs in SGLang's scheduler process.

Without a prefix attention needs nothing but these, so any backend's kernel can be asked about the inputs that another
backend's layer got: the paged kernels are called on K and V as they stand, with an empty prefix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sage_eval.attention import numerics
from sage_eval.attention.settings import AttentionSettings
from sage_eval.engine.options import SAGE


class Inputs(NamedTuple):
    """One layer's attention of one sequence: q [T, Hq, D], k and v [T, Hkv, D], contiguous; `scale` of the softmax."""

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float


Attend = Callable[[Inputs], Tensor]
"""→ [T, Hq, D] in q's dtype."""


def exact(x: Inputs) -> Tensor:
    """Attention in fp32 throughout, [T, Hq, D] fp32: what all kernels approximate."""
    return numerics.attention(x.q.float(), x.k.float(), x.v.float(), scale=x.scale, variant="exact")


def other_make(x: Inputs) -> Tensor:
    """Torch's SDPA: on CUDA the kernel that torch prefers (FlashAttention-2 or cuDNN), else its plain formula.

    Without a GPU the plain one, since `torch_native` is the other.
    """
    if x.q.is_cuda:
        return _sdpa(x)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        return _sdpa(x)


def kernel_of(backend: str, settings: dict[str, Any] | None, device: str) -> Attend | None:
    """How `backend` (for `sage_attn`, with `settings`) computes a sequence without prefix; None where we cannot say."""
    if backend == SAGE:
        return _Sage(AttentionSettings.from_mapping(settings or {}), device)
    kernels: dict[str, Attend] = {"torch_native": _sdpa}
    if device == "cuda":
        kernels |= {"triton": _triton, "fa3": _fa3}
    return kernels.get(backend)


class _Sage:
    """What `sage_attn` does with a sequence: `SageAttnBackend` on CUDA, `SageTorchAttnBackend` elsewhere."""

    def __init__(self, settings: AttentionSettings, device: str) -> None:
        self.settings = settings
        self.paged = device == "cuda" and settings.kernel in ("auto", "paged")
        self._vectors: dict[str, list[Tensor]] = {}

    def __call__(self, x: Inputs) -> Tensor:
        settings, shift, balance = self.settings, self._vector("shift", x), self._vector("balance", x)
        smooth = settings.smooth_k != "off"
        if x.q.is_cuda and settings.variant == "exact":
            return _triton(x)
        if x.q.is_cuda and settings.kernel == "package":
            from sage_eval.attention.kernels.package import package_attention

            out = torch.empty_like(x.q)
            package_attention(x.q, x.k, x.v, out, scale=x.scale, smooth=smooth)
            return out
        if not self.paged:
            return numerics.attention(
                x.q, x.k, x.v, scale=x.scale, variant=settings.variant, smooth_k=settings.smooth_k, k_shift=shift,
                balance=balance,
            )  # fmt: skip
        from sage_eval.attention.kernels.paged import paged_attention
        from sage_eval.attention.kernels.plan import make_plan

        out, none = torch.empty_like(x.q), torch.empty(0, dtype=torch.int64, device=x.q.device)
        paged_attention(
            x.q, x.k, x.v, out, x.k, x.v, none, make_plan([0], [len(x.q)], x.q.device),
            scale=x.scale, variant=settings.variant, smooth=smooth, shift=shift, balance=balance,
        )  # fmt: skip
        return out

    def _vector(self, setting: str, x: Inputs) -> Tensor | None:
        """What the file of `setting` (shift or balance) has for the layer."""
        path = getattr(self.settings, setting)
        if path is None or (setting == "shift" and self.settings.smooth_k != "static"):
            return None
        if setting not in self._vectors:
            from sage_eval.attention.vectors import load

            found = load(setting, path, None, x.k.shape[1], x.k.shape[2])
            self._vectors[setting] = [vector.to(x.k.device) for vector in found]
        return self._vectors[setting][x.layer]


def _sdpa(x: Inputs) -> Tensor:
    q, k, v = (t.transpose(0, 1)[None] for t in (x.q, x.k, x.v))
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=x.scale)[0].transpose(0, 1)


def _triton(x: Inputs) -> Tensor:
    """SGLang's Triton prefill kernel, as its backend calls it."""
    from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

    tokens, device, out = len(x.q), x.q.device, torch.empty_like(x.q)
    new = torch.tensor([0, tokens], dtype=torch.int64, device=device)
    prefix, none = torch.zeros(2, dtype=torch.int32, device=device), torch.empty(0, dtype=torch.int64, device=device)
    extend_attention_fwd(
        x.q, x.k, x.v, out, x.k, x.v, new, prefix, none, None, True, None, tokens, 1.0, 1.0, x.scale
    )  # fmt: skip
    return out


def _fa3(x: Inputs) -> Tensor:
    """FlashAttention-3 as SGLang's `fa3` backend calls it: over a cache in pages of one token."""
    from sgl_kernel.flash_attn import flash_attn_with_kvcache

    tokens, device, out = len(x.q), x.q.device, torch.empty_like(x.q)
    starts = torch.tensor([0, tokens], dtype=torch.int32, device=device)
    length = torch.tensor([tokens], dtype=torch.int32, device=device)
    flash_attn_with_kvcache(
        q=x.q, k_cache=x.k.unsqueeze(1), v_cache=x.v.unsqueeze(1),
        page_table=torch.arange(tokens, dtype=torch.int32, device=device)[None], cache_seqlens=length,
        cu_seqlens_q=starts, cu_seqlens_k_new=starts, max_seqlen_q=tokens, softmax_scale=x.scale, causal=True, out=out,
    )  # fmt: skip
    return out
