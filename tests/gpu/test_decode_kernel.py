"""INT8 decode over the paged cache on a GPU: against the definition, and in a CUDA graph. Needs torch and Triton."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sage_eval.attention import numerics
from sage_eval.attention.kernels.decode import decode_attention
from sage_eval.attention.kernels.paged import TOP

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
LENGTHS = [1, 63, 64, 65, 127, 128, 1000, 2047, 2048, 2049, 4096, 16385]
LIMITS = {"int8-fp16": 2e-3, "int4-fp16": 3e-2}


class Decode:
    """One query a sequence; keys lie shuffled over a pool whose other rows are NaN."""

    def __init__(
        self,
        lengths: Sequence[int] = LENGTHS,
        heads: tuple[int, int] = (32, 8),
        dim: int = 128,
        dtype: torch.dtype = torch.float16,
        offset: float = 0.0,
    ) -> None:
        generator = torch.Generator("cuda").manual_seed(dim)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dim, generator=generator, device="cuda")

        total, self.lengths, self.scale = sum(lengths), list(lengths), dim**-0.5
        self.q = normal(len(lengths), heads[0]).to(dtype)
        self.k = (normal(total, heads[1]) + offset * normal(1, heads[1])).to(dtype)
        self.v = normal(total, heads[1]).to(dtype)
        self.indices = torch.randperm(total + 64, generator=generator, device="cuda")[:total]
        self.pools = [torch.full((total + 64, heads[1], dim), torch.nan, dtype=dtype, device="cuda") for _ in "kv"]
        for pool, x in zip(self.pools, (self.k, self.v), strict=True):
            pool[self.indices] = x

    def launch(self, out: Tensor, which: Sequence[int] | None = None, **options: object) -> None:
        which = list(range(len(self.lengths))) if which is None else which
        parts = self.indices.split(self.lengths)
        indptr = torch.tensor([0, *(self.lengths[i] for i in which)], device="cuda").cumsum(0).int()
        indices = torch.cat([parts[i] for i in which])
        decode_attention(self.q[which], out, *self.pools, indptr, indices, scale=self.scale, **options)  # type: ignore[arg-type]

    def run(self, which: Sequence[int] | None = None, **options: object) -> Tensor:
        out = torch.full_like(self.q if which is None else self.q[which], torch.nan)
        self.launch(out, which, **options)
        return out

    def check(self, variant: str = "int8-fp16", **options: object) -> None:
        got = self.run(
            top=TOP[variant], fp8=variant == "int8-fp8", smooth=options.get("smooth_k") != "off",
            shift=options.get("k_shift"),
        )  # fmt: skip
        far = {}
        for i, (k, v) in enumerate(zip(self.k.split(self.lengths), self.v.split(self.lengths), strict=True)):
            want = numerics.attention(self.q[i : i + 1], k, v, scale=self.scale, variant=variant, **options)[0]  # type: ignore[arg-type]
            error = ((got[i].double() - want.double()).norm() / want.double().norm()).item()
            if not error <= LIMITS[variant]:
                far[self.lengths[i]] = error
        assert far == {}


@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize("heads", [(4, 4), (3, 1), (32, 8), (32, 1)])
def test_against_the_definition(heads: tuple[int, int], dim: int) -> None:
    Decode(heads=heads, dim=dim).check()


@pytest.mark.parametrize("variant", ["int8-fp16", "int4-fp16"])
def test_variants_with_offsets_in_bf16(variant: str) -> None:
    Decode(dtype=torch.bfloat16, offset=8.0).check(variant)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs FP8 numbers"
)
def test_fp8_is_as_near_to_float64_as_the_definition() -> None:
    """P's rounding to three bits depends on the maximum so far, and each part of a sequence has its own."""
    batch = Decode(offset=8.0)
    got, errors = batch.run(fp8=True), []
    for i, (k, v) in enumerate(zip(batch.k.split(batch.lengths), batch.v.split(batch.lengths), strict=True)):
        keys, values = (x.double().repeat_interleave(4, 1) for x in (k, v))
        weights = (torch.einsum("hd,khd->hk", batch.q[i].double(), keys) * batch.scale).softmax(-1)
        want = torch.einsum("hk,khd->hd", weights, values)
        defined = numerics.attention(batch.q[i : i + 1], k, v, scale=batch.scale, variant="int8-fp8")[0]
        errors.append([((x.double() - want).norm() / want.norm()).item() for x in (got[i], defined)])
    ours, defined_errors = torch.tensor(errors).T
    assert (ours <= 1.1 * defined_errors).all(), errors


def test_static_and_no_smoothing() -> None:
    batch = Decode(offset=2.0)
    batch.check(smooth_k="static", k_shift=2 * torch.randn(8, 128, device="cuda"))
    batch.check(smooth_k="off")


def test_bits_do_not_depend_on_batch_mates_and_repeat() -> None:
    batch = Decode()
    together = batch.run()
    assert torch.equal(batch.run(), together)
    for which in ([11], [0], [5, 3, 11, 1]):
        assert torch.equal(batch.run(which), together[which])


def test_in_a_cuda_graph_with_other_lengths_at_replay() -> None:
    """Captured with lengths of 1, replayed with others, and padded by sequences of one token, as SGLang does."""
    batch = Decode([70, 1, 300, 5000], (8, 2))
    count = len(batch.lengths) + 2
    q, out = torch.zeros(count, 8, 128, dtype=torch.float16, device="cuda"), torch.zeros(count, 8, 128, device="cuda")
    out = out.half()
    indptr = torch.arange(count + 1, device="cuda", dtype=torch.int32)
    indices = torch.full((8192,), int(batch.indices[0]), device="cuda")

    def step() -> None:
        decode_attention(q, out, *batch.pools, indptr, indices, scale=batch.scale)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    q[:4] = batch.q
    ends = torch.tensor([0, *batch.lengths, 1, 1]).cumsum(0)
    indptr.copy_(ends)
    indices[: len(batch.indices)] = batch.indices
    out.fill_(torch.nan)
    graph.replay()
    assert torch.equal(out[:4], batch.run())
    assert out.isfinite().all()
