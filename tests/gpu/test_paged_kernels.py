"""The paged kernels on a GPU, against the definition and against float64. Needs torch and Triton only.

Every allocation is filled with NaN first, prefixes lie shuffled over a pool whose other rows are NaN, and the output is
NaN before each launch: whatever is read without having been written shows.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from sage_eval.attention import numerics
from sage_eval.attention.kernels import paged
from sage_eval.attention.kernels.paged import paged_attention
from sage_eval.attention.kernels.plan import make_plan
from sage_eval.attention.kernels.quantise import quantise
from sage_eval.attention.kernels.tiles import Tile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
AGAINST_DEFINITION = 2e-3
AGAINST_FLOAT64 = 1.1  # times the definition's own error
INT4_AGAINST_DEFINITION = 3e-2  # the mean's last bit can move a code, and INT4 has 15 of them
FP8_AGAINST_DEFINITION = 5e-3  # the model of Hopper's FP8 sums is not bit-exact


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty returns NaN (and the largest integers)."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


class Batch:
    def __init__(
        self,
        prefixes: Sequence[int],
        news: Sequence[int],
        heads: tuple[int, int] = (32, 8),
        dim: int = 128,
        dtype: torch.dtype = torch.bfloat16,
        seed: int = 0,
    ) -> None:
        self.prefixes, self.news, self.scale = list(prefixes), list(news), dim**-0.5
        self.generator = torch.Generator("cuda").manual_seed(seed)
        self.dtype = dtype
        cached, new, spare = sum(prefixes), sum(news), 64
        self.q = self.normal(new, heads[0], dim)
        self.k, self.v = self.normal(new, heads[1], dim), self.normal(new, heads[1], dim)
        self.indices = torch.randperm(cached + spare, generator=self.generator, device="cuda")[:cached]
        self.k_cache, self.v_cache = (
            torch.full((cached + spare, heads[1], dim), torch.nan, dtype=dtype, device="cuda") for _ in "kv"
        )
        self.k_cache[self.indices] = self.normal(cached, heads[1], dim)
        self.v_cache[self.indices] = self.normal(cached, heads[1], dim)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device="cuda").to(self.dtype)

    def run(self, which: Sequence[int] | None = None, **options: object) -> list[Tensor]:
        """Outputs of the sequences `which`, computed as one batch in that order."""
        which = list(range(len(self.news))) if which is None else which
        rows, gathers = self._ranges(self.news), self._ranges(self.prefixes)
        q, k, v = (torch.cat([x[rows[i]] for i in which]) for x in (self.q, self.k, self.v))
        indices = torch.cat([self.indices[gathers[i]] for i in which])
        news = [self.news[i] for i in which]
        plan = make_plan([self.prefixes[i] for i in which], news, "cuda")
        out = torch.full_like(q, torch.nan)
        paged_attention(q, k, v, out, self.k_cache, self.v_cache, indices, plan, scale=self.scale, **options)  # type: ignore[arg-type]
        return list(out.split(news))

    def sequence(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        rows, slots = self._ranges(self.news)[i], self.indices[self._ranges(self.prefixes)[i]]
        keys = torch.cat([self.k_cache[slots], self.k[rows]])
        return self.q[rows], keys, torch.cat([self.v_cache[slots], self.v[rows]])

    def define(self, i: int, **options: object) -> Tensor:
        return numerics.attention(*self.sequence(i), scale=self.scale, **options)  # type: ignore[arg-type]

    def check(self, limit: float = AGAINST_DEFINITION, smooth_k: str = "sequence", **options: object) -> None:
        outs = self.run(smooth=smooth_k != "off", **options)
        far = {}
        for i, got in enumerate(outs):
            error = distance(got, self.define(i, smooth_k=smooth_k, **options))
            if not error <= limit:
                far[self.prefixes[i], self.news[i]] = error
        assert far == {}

    @staticmethod
    def _ranges(lengths: Sequence[int]) -> list[slice]:
        ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]


def distance(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30)).item()


def float64_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    s = torch.einsum("qhd,khd->hqk", q.double(), k) * scale
    s.masked_fill_(torch.ones(s.shape[1:], dtype=torch.bool, device=s.device).triu(len(k) - len(q) + 1), -torch.inf)
    return torch.einsum("hqk,khd->qhd", s.softmax(-1), v)


@pytest.fixture(params=["table", "triton"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel this GPU's table names, and the portable one, which other GPUs use."""
    if request.param == "triton":
        monkeypatch.setattr(paged, "choose_tile", lambda *_: Tile(8, 2))
    return str(request.param)


@pytest.mark.parametrize("prefix", [0, 1, 63, 64, 65, 1000])
def test_every_length_to_300(prefix: int, source: str) -> None:
    Batch([prefix] * 300, range(1, 301), heads=(32, 8)).check()


@pytest.mark.parametrize("prefix", [0, 65, 16384])
@pytest.mark.parametrize("new", [[511, 512, 513], [1000, 1, 4096], [8191]])
def test_longer_sequences(prefix: int, new: list[int]) -> None:
    Batch([prefix] * len(new), new).check()


def test_32k() -> None:
    Batch([0], [32768], heads=(8, 2)).check()


@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize(
    ("heads", "dtype"),
    [((4, 4), torch.bfloat16), ((3, 1), torch.bfloat16), ((8, 2), torch.float16), ((8, 1), torch.bfloat16)],
)
def test_heads_sizes_and_dtypes(heads: tuple[int, int], dim: int, dtype: torch.dtype, source: str) -> None:
    Batch([0, 100, 0, 65], [300, 77, 1, 129], heads, dim, dtype).check()


@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize(
    ("variant", "limit"), [("int8-fp16", AGAINST_DEFINITION), ("int8-fp8", FP8_AGAINST_DEFINITION)]
)
def test_balance(variant: str, limit: float, dim: int, source: str) -> None:
    batch = Batch([0, 65], [700, 300], (8, 2), dim)
    batch.check(limit, variant=variant, balance=torch.rand(2, dim, device="cuda") + 0.5)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("offset", [0.0, 8.0])
def test_error_against_float64(dim: int, offset: float, source: str) -> None:
    batch = Batch([0, 1000], [1024, 1024], (8, 2), dim, torch.float16)
    shift = offset * batch.normal(1, 2, dim)
    batch.k += shift
    batch.k_cache += shift
    for i, got in enumerate(batch.run()):
        want = float64_attention(*batch.sequence(i), batch.scale)
        assert distance(got, want) <= AGAINST_FLOAT64 * distance(batch.define(i), want)


def test_q_and_k_operands_are_those_of_the_definition_on_a_cpu() -> None:
    """Bit for bit, in bf16, where ties are common; with a given shift, since a sum has an order."""
    batch = Batch([70, 0, 1000], [61, 300, 129], (2, 2), 96)
    plan, shift = make_plan(batch.prefixes, batch.news, "cuda"), torch.randn(2, 96, device="cuda")
    sources = batch.k, batch.v, batch.k_cache, batch.v_cache, batch.indices
    got = quantise(batch.q, *sources, plan, scale=batch.scale, shift=shift)
    q_codes, q_scales, codes, scales, _, _ = got
    for tile, (i, start) in enumerate(plan.query_tiles[:, :2].tolist()):
        want_codes, want_scales = numerics.quantise_q(batch.sequence(i)[0].cpu(), batch.scale)
        want_codes = want_codes[start : start + 128]
        got_codes = q_codes.view(-1, 2, 128, 128)[tile, :, : len(want_codes), :96].transpose(0, 1).cpu()
        assert torch.equal(got_codes, want_codes)
        assert torch.equal(q_scales.view(-1, 2)[tile].cpu(), want_scales[start // 128])
    for i in range(3):
        k = batch.sequence(i)[1].cpu()
        want_codes, want_scales = numerics.quantise_k(k, shift.cpu())
        first = int(plan.sequences[i, 4])
        got_codes = codes.view(2, plan.slots, 128)[:, first : first + len(k), :96].transpose(0, 1).cpu()
        assert torch.equal(got_codes, want_codes)
        assert torch.equal(scales.view(2, -1)[:, first // 64 : first // 64 + len(want_scales)].T.cpu(), want_scales)


def test_bits_do_not_depend_on_the_batch(source: str) -> None:
    batch = Batch([0, 63, 500, 0, 1000, 7], [200, 64, 1, 513, 300, 4000], (8, 2))
    whole = batch.run()
    for which in ([0], [5], [4, 2], [3, 1, 0], [5, 4, 3, 2, 1, 0]):
        for i, out in zip(which, batch.run(which), strict=True):
            assert torch.equal(out, whole[i])


@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8"])
@pytest.mark.parametrize("new", [300, 3000])
def test_later_layers_start_what_the_first_compiled(
    new: int, variant: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other addresses and values, the same bits as alone, and Triton's own launch is not gone through again."""
    first, second = (Batch([70, 0], [new, 33], (8, 2), seed=seed) for seed in (0, 1))
    want = [torch.cat(batch.run(variant=variant)) for batch in (first, second)]
    plan = make_plan(first.prefixes, first.news, "cuda")
    launches = []
    monkeypatch.setattr(JITFunction, "run", lambda *a, _run=JITFunction.run, **b: launches.append(a) or _run(*a, **b))
    for layer, which in ((first, 0), (second, 1), (first, 0)):
        out = torch.full_like(layer.q, torch.nan)
        sources = layer.k_cache, layer.v_cache, layer.indices, plan
        paged_attention(layer.q, layer.k, layer.v, out, *sources, scale=layer.scale, variant=variant)
        assert torch.equal(out, want[which])
        assert len(launches) == 3


def test_later_layers_of_another_kind_are_compiled_for_themselves() -> None:
    """Q of an odd address, and Q, K and V in one tensor: what was compiled for other strides and addresses is wrong."""
    batch = Batch([70], [300], (8, 2))
    (want,) = batch.run()
    plan, sources = make_plan(batch.prefixes, batch.news, "cuda"), (batch.k_cache, batch.v_cache, batch.indices)
    odd = torch.empty(batch.q.numel() + 1, dtype=batch.q.dtype, device="cuda")[1:].view_as(batch.q).copy_(batch.q)
    fused = torch.cat([batch.q, batch.k, batch.v], 1).split((8, 2, 2), 1)
    for q, k, v in ((batch.q, batch.k, batch.v), (odd, batch.k, batch.v), fused, (batch.q, batch.k, batch.v)):
        out = torch.full_like(batch.q, torch.nan)
        paged_attention(q, k, v, out, *sources, plan, scale=batch.scale)
        assert torch.equal(out, want)


@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8"])
@pytest.mark.parametrize("new", [1000, 4000])
def test_layers_one_after_the_other_in_a_graph_have_the_bits_of_each_alone(new: int, variant: str) -> None:
    """Kernels start before their forerunners end: what they read must have been written, also over old memory."""
    layers = [Batch([70, 0], [new, 33], (8, 2), seed=seed) for seed in range(4)]
    want = [torch.cat(layer.run(variant=variant)) for layer in layers]
    plan, outs = make_plan([70, 0], [new, 33], "cuda"), [torch.full_like(layer.q, torch.nan) for layer in layers]

    def forward() -> None:
        for layer, out in zip(layers, outs, strict=True):
            sources = layer.k_cache, layer.v_cache, layer.indices, plan
            paged_attention(layer.q, layer.k, layer.v, out, *sources, scale=layer.scale, variant=variant)

    forward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    for _ in range(20):
        for out in outs:
            out.fill_(torch.nan)
        graph.replay()
        assert all(torch.equal(out, right) for out, right in zip(outs, want, strict=True))


@pytest.mark.parametrize("variant", ["int8-fp16", "int4-fp16"])
@pytest.mark.parametrize("cuts", [[512], [128, 896], [512, 1024, 1536]])
def test_with_a_fixed_shift_chunks_and_prefixes_give_the_same_bits(cuts: list[int], variant: str, source: str) -> None:
    """One sequence whole; and its pieces after what came before them, in one shuffled batch and one by one."""
    length, shift = 2000, torch.randn(2, 128, device="cuda")
    batch = Batch([0], [length], (8, 2))
    (whole,) = batch.run(shift=shift, variant=variant)
    starts, ends = [0, *cuts], [*cuts, length]
    pieces = Batch(starts, [b - a for a, b in zip(starts, ends, strict=True)], (8, 2))
    pieces.q, pieces.k, pieces.v = batch.q, batch.k, batch.v
    for start, slots in zip(starts, pieces.indices.split(starts), strict=True):
        pieces.k_cache[slots], pieces.v_cache[slots] = batch.k[:start], batch.v[:start]
    order = list(range(len(starts)))[::-1]
    together = dict(zip(order, pieces.run(order, shift=shift, variant=variant), strict=True))
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert torch.equal(together[i], whole[start:end])
        assert torch.equal(pieces.run([i], shift=shift, variant=variant)[0], whole[start:end])


def test_v_beyond_fp16_is_scaled(source: str) -> None:
    batch = Batch([100, 0], [200, 300], (8, 2))
    batch.v *= 1e6
    batch.v_cache *= 1e6
    batch.check()


def test_large_equal_values_do_not_overflow(source: str) -> None:
    batch = Batch([0], [300], (8, 2), dtype=torch.float16)
    batch.v.fill_(60000.0)
    batch.check()


def test_zeros_and_single_tokens(source: str) -> None:
    batch = Batch([0, 0, 3], [1, 200, 1], (8, 2))
    batch.check()
    for tensor in (batch.q, batch.k, batch.v):
        tensor.zero_()
    assert all(out.isfinite().all() for out in batch.run())


def test_without_smoothing_and_int4(source: str) -> None:
    batch = Batch([100, 0], [200, 300], (8, 2))
    batch.check(smooth_k="off")
    batch.check(INT4_AGAINST_DEFINITION, variant="int4-fp16")


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs FP8 matrix units"
)
@pytest.mark.parametrize("dim", [64, 96, 128])
def test_fp8(dim: int, source: str) -> None:
    batch = Batch([0, 100, 0, 65, 3000], [300, 77, 1, 129, 2000], (8, 2), dim, torch.float16)
    batch.check(FP8_AGAINST_DEFINITION, variant="int8-fp8")
    got = batch.run(variant="int8-fp8")[-1]
    want = float64_attention(*batch.sequence(4), batch.scale)
    assert distance(got, want) <= AGAINST_FLOAT64 * distance(batch.define(4, variant="int8-fp8"), want)
