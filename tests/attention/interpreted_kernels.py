"""The kernels under Triton's interpreter; `test_kernels_interpreted.py` runs this file in a process of its own."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sage_eval.attention import numerics
from sage_eval.attention.kernels import paged
from sage_eval.attention.kernels.paged import paged_attention
from sage_eval.attention.kernels.plan import make_plan
from sage_eval.attention.kernels.quantise import quantise

sys.path.insert(0, str(Path(__file__).parent))
from mutations import MUTATIONS, mutant


class Batch:
    """Sequences whose prefixes lie scattered over a pool; every other row of the pool is NaN."""

    def __init__(
        self, prefixes: list[int], news: list[int], heads: tuple[int, int], dim: int, dtype: torch.dtype = torch.float16
    ) -> None:
        generator = torch.Generator().manual_seed(dim)
        self.prefixes, self.news, self.scale = prefixes, news, dim**-0.5

        def normal(rows: int, count: int) -> Tensor:
            return torch.randn(rows, count, dim, generator=generator).to(dtype)

        self.q = normal(sum(news), heads[0])
        (
            self.k,
            self.v,
        ) = (normal(sum(news), heads[1]) for _ in range(2))
        self.indices = torch.randperm(sum(prefixes) + 40, generator=generator)[: sum(prefixes)]
        self.k_cache, self.v_cache = (
            torch.full((sum(prefixes) + 40, heads[1], dim), torch.nan, dtype=dtype) for _ in "kv"
        )
        self.k_cache[self.indices] = normal(sum(prefixes), heads[1])
        self.v_cache[self.indices] = normal(sum(prefixes), heads[1])

    def sources(self) -> tuple[Tensor, ...]:
        return self.k, self.v, self.k_cache, self.v_cache, self.indices

    def sequences(self) -> list[tuple[slice, Tensor, Tensor]]:
        """Rows of q, and the whole keys and values, of each sequence."""
        result, gather, row = [], 0, 0
        for prefix, new in zip(self.prefixes, self.news, strict=True):
            slots, rows = self.indices[gather : gather + prefix], slice(row, row + new)
            keys = torch.cat([self.k_cache[slots], self.k[rows]])
            result.append((rows, keys, torch.cat([self.v_cache[slots], self.v[rows]])))
            gather, row = gather + prefix, row + new
        return result

    def run(self, **options: object) -> Tensor:
        out = torch.full_like(self.q, torch.nan)
        plan = make_plan(self.prefixes, self.news, "cpu")
        paged_attention(
            self.q, self.k, self.v, out, self.k_cache, self.v_cache, self.indices, plan, scale=self.scale, **options
        )  # type: ignore[arg-type]
        return out

    def check(
        self, variant: str = "int8-fp16", smooth_k: str = "sequence", limit: float = 1e-3, **options: Tensor
    ) -> None:
        out = self.run(
            variant=variant, smooth=smooth_k != "off", shift=options.get("k_shift"), balance=options.get("balance")
        )
        for rows, k, v in self.sequences():
            want = numerics.attention(
                self.q[rows].float(),
                k.float(),
                v.float(),
                scale=self.scale,
                variant=variant,
                smooth_k=smooth_k,
                **options,
            )  # type: ignore[arg-type]
            assert (out[rows].float() - want).norm() <= limit * want.norm()


@pytest.mark.parametrize(("heads", "dim"), [((2, 2), 64), ((3, 1), 64), ((4, 2), 96), ((4, 1), 128)])
def test_a_mixed_batch(heads: tuple[int, int], dim: int) -> None:
    Batch([0, 70, 0], [130, 5, 1], heads, dim).check()


@pytest.mark.parametrize("prefix", [1, 63, 64, 65, 130])
def test_borders_of_the_prefix(prefix: int) -> None:
    Batch([prefix], [66], (1, 1), 64).check()


@pytest.mark.parametrize("variant", ["int4-fp16"])
def test_other_variants(variant: str) -> None:
    Batch([65], [70], (2, 1), 64).check(variant)


def test_smoothing() -> None:
    batch = Batch([65], [70], (2, 1), 64)
    batch.check(smooth_k="off")
    batch.check(smooth_k="static", k_shift=torch.randn(1, 64))


def balance_for(heads: int, dim: int) -> Tensor:
    return torch.rand(heads, dim, generator=torch.Generator().manual_seed(3)) * 2 + 0.25


@pytest.mark.parametrize("dim", [64, 96])
@pytest.mark.parametrize("smooth_k", ["sequence", "static", "off"])
def test_balance(dim: int, smooth_k: str) -> None:
    shift = {"k_shift": torch.randn(2, dim)} if smooth_k == "static" else {}
    Batch([65], [70], (4, 2), dim).check(smooth_k=smooth_k, balance=balance_for(2, dim), **shift)


def test_channel_offsets_do_not_reach_the_scale_of_a_short_last_block() -> None:
    """Slots after the last key are zero, not minus the mean."""
    batch = Batch([0], [70], (2, 1), 64)
    batch.k += 8 * torch.randn(1, 64)
    batch.check()


def test_v_beyond_fp16_is_scaled() -> None:
    batch = Batch([70], [40], (2, 1), 64, torch.bfloat16)
    batch.v_cache *= 1e6
    batch.v *= 1e6
    batch.check(limit=4e-3)  # the output is bf16


def test_zeros_are_finite() -> None:
    batch = Batch([3], [70], (2, 1), 64)
    for tensor in (batch.q, batch.k, batch.v):
        tensor.zero_()
    batch.check(limit=2e-3)


def test_q_and_k_operands_are_the_definitions_bit_for_bit() -> None:
    """With a given shift: the mean's last bit depends on the order of the sum."""
    batch = Batch([70, 0], [61, 65], (2, 2), 64)
    plan, shift = make_plan(batch.prefixes, batch.news, "cpu"), torch.randn(2, 64)
    for bits, balance in ((8, None), (4, None), (8, balance_for(2, 64))):
        top = 2 ** (bits - 1) - 1
        got = quantise(batch.q, *batch.sources(), plan, scale=batch.scale, top=top, shift=shift, balance=balance)  # type: ignore[arg-type]
        q_codes, q_scales, codes, scales, _, _ = got
        for row, (rows, k, _) in enumerate(batch.sequences()):
            (tile,) = (i for i, (owner, _) in enumerate(plan.query_tiles[:, :2].tolist()) if owner == row)
            want_codes, want_scales = numerics.quantise_q(batch.q[rows], batch.scale, bits, balance)
            got_codes = q_codes.view(-1, 2, 128, 64)[tile, :, : len(want_codes)].transpose(0, 1)
            assert torch.equal(got_codes, want_codes)
            assert torch.equal(q_scales.view(-1, 2)[tile], want_scales[0])
            want_codes, want_scales = numerics.quantise_k(k, shift, bits, balance)
            first = int(plan.sequences[row, 4])
            got_codes = codes.view(2, plan.slots, 64)[:, first : first + len(k)].transpose(0, 1)
            got_scales = scales.view(2, -1)[:, first // 64 : first // 64 + len(want_scales)].T
            assert torch.equal(got_codes, want_codes)
            assert torch.equal(got_scales, want_scales)


def test_bits_do_not_depend_on_batch_mates() -> None:
    batch = Batch([0, 70, 0], [65, 33, 128], (2, 1), 64)
    together = batch.run()
    row = gather = 0
    for prefix, new in zip(batch.prefixes, batch.news, strict=True):
        rows = slice(row, row + new)
        alone = torch.full_like(batch.q[rows], torch.nan)
        paged_attention(
            batch.q[rows], batch.k[rows], batch.v[rows], alone, batch.k_cache, batch.v_cache,
            batch.indices[gather : gather + prefix], make_plan([prefix], [new], "cpu"), scale=batch.scale,
        )  # fmt: skip
        assert torch.equal(alone, together[rows])
        row, gather = row + new, gather + prefix


@pytest.mark.parametrize("kept", [0, paged.KEPT_SLOTS])
def test_layers_of_a_batch_share_its_plan_and_nothing_of_each_others_values(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second layer has smaller values and an offset: what the first left in memory would show."""
    monkeypatch.setattr(paged, "KEPT_SLOTS", kept)
    first, second = (Batch([0, 70], [65, 33], (2, 1), 64) for _ in range(2))
    for tensor in (second.q, second.k, second.v, second.k_cache, second.v_cache):
        tensor.mul_(0.25)
    second.k += 0.5
    second.k_cache += 0.5
    alone, plan = [first.run(), second.run()], make_plan(first.prefixes, first.news, "cpu")
    for layer, want in zip((first, second, first), (*alone, alone[0]), strict=True):
        out = torch.full_like(layer.q, torch.nan)
        sources = layer.sources()
        paged_attention(layer.q, *sources[:2], out, *sources[2:], plan, scale=layer.scale)
        assert torch.equal(out, want)
    (layers,) = plan.layers.values()
    assert (layers.memory is not None) == (kept > 0)


def test_tensors_of_another_kind_share_no_launches() -> None:
    """Another stride, another alignment, or a shift: each is compiled for itself."""
    batch = Batch([3], [40], (2, 1), 64)
    plan, want = make_plan(batch.prefixes, batch.news, "cpu"), batch.run()
    fused = torch.cat([batch.q, batch.k, batch.v], 1)
    shifted = torch.empty(batch.q.numel() + 1, dtype=batch.q.dtype)[1:].view_as(batch.q).copy_(batch.q)
    for q, k, v in ((batch.q, batch.k, batch.v), fused.split((2, 1, 1), 1), (shifted, batch.k, batch.v)):
        out = torch.full_like(batch.q, torch.nan)
        paged_attention(q, k, v, out, *batch.sources()[2:], plan, scale=batch.scale)
        assert torch.equal(out, want)
    assert len(plan.layers) == 3
    paged_attention(batch.q, *batch.sources()[:2], out, *batch.sources()[2:], plan, scale=1.0, shift=torch.ones(1, 64))
    assert len(plan.layers) == 4


def test_sequences_that_are_not_served_are_left_alone() -> None:
    batch = Batch([0, 5], [10, 7], (1, 1), 64)
    out = torch.full_like(batch.q, 9.0)
    plan = make_plan(batch.prefixes, batch.news, "cpu", [False, True])
    paged_attention(batch.q, *batch.sources()[:2], out, *batch.sources()[2:], plan, scale=batch.scale)
    assert out[:10].eq(9.0).all()
    torch.testing.assert_close(out[10:], batch.run()[10:], rtol=0, atol=0)


def test_a_balance_of_powers_of_two_is_that_of_scaled_tensors_bit_for_bit() -> None:
    """Powers of two, which tensors could have been scaled by beforehand: the output is the same in every bit."""
    batch = Batch([0], [130], (4, 2), 64)
    balance = torch.exp2(torch.randint(-2, 3, (2, 64), generator=torch.Generator().manual_seed(4)).float())
    given = batch.run(balance=balance)
    batch.q, batch.k = batch.q * balance.repeat_interleave(2, 0).half(), batch.k / balance.half()
    assert torch.equal(given, batch.run())


def test_with_a_fixed_shift_chunks_prefixes_and_batches_give_the_same_bits() -> None:
    length, cut = 320, 128
    whole, shift = Batch([0], [length], (2, 1), 64), torch.randn(1, 64)
    want = whole.run(shift=shift)
    pieces = Batch([cut, 0], [length - cut, cut], (2, 1), 64)  # the later piece first
    pieces.q, pieces.k, pieces.v = (torch.cat([x[cut:], x[:cut]]) for x in (whole.q, whole.k, whole.v))
    pieces.k_cache[pieces.indices], pieces.v_cache[pieces.indices] = whole.k[:cut], whole.v[:cut]
    got = pieces.run(shift=shift)
    assert torch.equal(torch.cat([got[length - cut :], got[: length - cut]]), want)


def seen(batch: Batch) -> bool:
    """Whether the comparison with the definition fails (an overflow gives NaN, which fails too)."""
    try:
        batch.check(limit=4e-3, balance=BALANCE)
    except AssertionError:
        return True
    return False


BALANCE = balance_for(1, 64)


def revealing_batch() -> Batch:
    """Unequal sequences, K with offsets, V beyond fp16: each mistake shows on some part of it."""
    batch = Batch([0, 65], [67, 70], (2, 1), 64, torch.bfloat16)
    offset = 30 * torch.randn(1, 64)
    batch.k += offset
    batch.k_cache += offset
    batch.k[:67] -= 2 * offset
    batch.v *= 1e5
    batch.v_cache *= 1e5
    return batch


@pytest.mark.parametrize("name", [None, *MUTATIONS])
def test_mistakes_in_prefill_are_seen(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mutant(tmp_path, MUTATIONS[name] if name else None, "paged")
    monkeypatch.setitem(globals(), "paged_attention", module.paged_attention)
    assert seen(revealing_batch()) == (name is not None)
