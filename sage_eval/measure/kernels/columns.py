"""The kernels that the benchmark times, and the inputs it times them on."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sage_eval.attention.kernels.paged import paged_attention
from sage_eval.attention.kernels.plan import make_plan
from sage_eval.attention.kernels.quantise import quantise
from sage_eval.measure.kernels.cases import BALANCED, HEADS, KV_HEADS, OURS, Case

Launch = Callable[[], Any]


class Inputs:
    """Random bf16 tensors of a case; the prefix lies shuffled in a pool."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator("cuda").manual_seed(0)

        def normal(rows: int, heads: int) -> Tensor:
            return torch.randn(rows, heads, case.dim, generator=generator, device="cuda", dtype=torch.bfloat16)

        new, cached = case.batch * case.new, case.batch * case.prefix
        self.case, self.scale = case, case.dim**-0.5
        self.q, self.k, self.v = normal(new, HEADS), normal(new, KV_HEADS), normal(new, KV_HEADS)
        self.k_cache, self.v_cache = normal(cached + 1, KV_HEADS), normal(cached + 1, KV_HEADS)
        self.indices = torch.randperm(cached, generator=generator, device="cuda")
        self.out = torch.empty_like(self.q)
        self.plan = make_plan([case.prefix] * case.batch, [case.new] * case.batch, "cuda")

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, 32, T, D] with K and V expanded, as torch's kernels take them."""
        shape = (self.case.batch, self.case.new, -1, self.case.dim)
        q, k, v = (x.view(shape).transpose(1, 2) for x in (self.q, self.k, self.v))
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
        return q.contiguous(), k, v

    def starts(self, length: int) -> Tensor:
        """[batch + 1] int32: where sequences of `length` begin."""
        return torch.arange(self.case.batch + 1, device="cuda", dtype=torch.int32) * length

    @cached_property
    def pool(self) -> tuple[Tensor, Tensor, Tensor]:
        """K and V in pages of one token, [slots, 1, Hkv, D], new tokens behind the prefixes, and the page table."""
        case = self.case
        k, v = (torch.cat([a, b]).unsqueeze(1) for a, b in ((self.k_cache, self.k), (self.v_cache, self.v)))
        fresh = len(self.k_cache) + torch.arange(len(self.k), device="cuda")
        table = torch.cat([self.indices.view(case.batch, case.prefix), fresh.view(case.batch, case.new)], 1)
        return k, v, table.int()

    def reference(self, rows: slice) -> Tensor:
        """Exact attention in fp32 of query `rows` of the first sequence, [rows, 32, D]."""
        k, v, table = self.pool
        last = self.case.prefix + torch.arange(rows.start, rows.stop, device="cuda")
        slots = table[0, : int(last[-1]) + 1].long()
        k, v = (x[slots, 0].float().repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
        s = torch.einsum("qhd,khd->hqk", self.q[rows].float() * self.scale, k)
        s.masked_fill_(torch.arange(len(slots), device="cuda") > last[:, None], -torch.inf)
        return torch.einsum("hqk,khd->qhd", s.softmax(-1), v)


def paged(variant: str, *, balanced: bool = False) -> Callable[[Inputs], Launch]:
    """Ours, quantisation included."""

    def prepare(x: Inputs) -> Launch:
        balance = torch.linspace(0.5, 2.0, KV_HEADS * x.case.dim, device="cuda").view(KV_HEADS, -1)

        def launch() -> Tensor:
            paged_attention(
                x.q, x.k, x.v, x.out, x.k_cache, x.v_cache, x.indices, x.plan, scale=x.scale, variant=variant,
                balance=balance if balanced else None,
            )  # fmt: skip
            return x.out

        return launch

    return prepare


def package(x: Inputs) -> Launch | None:
    """The released sageattention; no prefix."""
    if x.case.prefix:
        return None
    from sageattention import sageattn

    shape = (x.case.batch, x.case.new, -1, x.case.dim)
    q, k, v = (t.view(shape) for t in (x.q, x.k, x.v))
    return lambda: sageattn(q, k.clone(), v, tensor_layout="NHD", is_causal=True)


def triton_extend(x: Inputs) -> Launch:
    """SGLang's Triton prefill kernel."""
    from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

    qo, kv = x.starts(x.case.new).long(), x.starts(x.case.prefix)

    def launch() -> Tensor:
        extend_attention_fwd(
            x.q, x.k, x.v, x.out, x.k_cache, x.v_cache, qo, kv, x.indices, None, True, None, x.case.new, 1.0, 1.0,
            x.scale,
        )  # fmt: skip
        return x.out

    return launch


def torch_sdpa(backend: str) -> Callable[[Inputs], Launch | None]:
    """A kernel behind torch's SDPA; no prefix."""

    def prepare(x: Inputs) -> Launch | None:
        if x.case.prefix:
            return None
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = x.dense()

        def launch() -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return scaled_dot_product_attention(q, k, v, is_causal=True)

        return launch

    return prepare


def fa3(x: Inputs) -> Launch | None:
    """FlashAttention-3 as SGLang packs it, over contiguous K and V; no prefix."""
    if x.case.prefix:
        return None
    from sgl_kernel.flash_attn import flash_attn_varlen_func

    starts, new = x.starts(x.case.new), x.case.new
    return lambda: flash_attn_varlen_func(
        x.q, x.k, x.v, starts, starts, new, new, softmax_scale=x.scale, causal=True, out=x.out
    )


def fa3_paged(x: Inputs) -> Launch:
    """FlashAttention-3 as SGLang's `fa3` backend calls it: over the paged cache, pages of one token."""
    from sgl_kernel.flash_attn import flash_attn_with_kvcache

    case, (k, v, table) = x.case, x.pool
    lengths = torch.full((case.batch,), case.prefix + case.new, dtype=torch.int32, device="cuda")
    new, whole = x.starts(case.new), x.starts(case.prefix + case.new)
    return lambda: flash_attn_with_kvcache(
        q=x.q, k_cache=k, v_cache=v, page_table=table, cache_seqlens=lengths, cu_seqlens_q=new,
        cu_seqlens_k_new=whole, max_seqlen_q=case.new, softmax_scale=x.scale, causal=True, out=x.out,
    )  # fmt: skip


def flashinfer(x: Inputs) -> Launch:
    """FlashInfer: ragged K and V without a prefix, pages of one token with one, as SGLang's backend chooses."""
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper

    case, workspace = x.case, torch.empty(384 << 20, dtype=torch.uint8, device="cuda")
    sizes, common = (HEADS, KV_HEADS, case.dim), {"causal": True, "sm_scale": x.scale, "q_data_type": torch.bfloat16}
    new = x.starts(case.new)
    if not case.prefix:
        ragged = BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
        ragged.plan(new, new, *sizes, **common)
        return lambda: ragged.run(x.q, x.k, x.v, out=x.out)
    k, v, table = x.pool
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
    last = torch.ones(case.batch, dtype=torch.int32, device="cuda")
    wrapper.plan(new, x.starts(case.prefix + case.new), table.flatten(), last, *sizes, 1, **common)
    return lambda: wrapper.run(x.q, (k, v), out=x.out)


COLUMNS: dict[str, Callable[[Inputs], Launch | None]] = {
    **{name: paged(name) for name in OURS},
    **{name: paged(variant, balanced=True) for name, variant in BALANCED.items()},
    # The part of `int8-fp16` that quantises.
    "quantise": lambda x: lambda: quantise(x.q, x.k, x.v, x.k_cache, x.v_cache, x.indices, x.plan, scale=x.scale),
    "package": package,
    "triton-extend": triton_extend,
    "fa3": fa3,
    "fa3-paged": fa3_paged,
    "flashinfer": flashinfer,
    "cudnn": torch_sdpa("CUDNN_ATTENTION"),
    "fa2": torch_sdpa("FLASH_ATTENTION"),
}
