"""The definition of SageAttention against float64 attention: error, masks, tails, ranges."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sage_eval.attention import numerics

INT8_ERROR = 0.0112  # relative L2 on N(0, 1), 1,024 tokens, head_dim 128, causal; the released kernel has 0.0113


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qkv(tq: int, tk: int, hq: int = 2, hkv: int = 1, dim: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    return normal(1, tq, hq, dim), normal(2, tk, hkv, dim), normal(3, tk, hkv, dim)


def float64_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """softmax(q kᵀ / √D) v in float64; query i sees the keys up to Tk - Tq + i."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    s = torch.einsum("qhd,khd->hqk", q.double(), k) / math.sqrt(q.shape[2])
    if causal:
        s.masked_fill_(torch.ones(s.shape[1:], dtype=torch.bool).triu(len(k) - len(q) + 1), -math.inf)
    return torch.einsum("hqk,khd->qhd", s.softmax(-1), v)


def error(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, **options: Any) -> float:
    """Relative L2 distance of the definition from float64."""
    want = float64_attention(q, k, v, causal)
    got = numerics.attention(q, k, v, scale=q.shape[2] ** -0.5, causal=causal, **options)
    assert got.dtype == q.dtype
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize(("hq", "hkv"), [(4, 4), (8, 2), (3, 1)])
def test_int8_error_is_that_of_the_released_kernel(hq: int, hkv: int) -> None:
    assert error(*qkv(1024, 1024, hq, hkv, 128)) == pytest.approx(INT8_ERROR, rel=0.1)


def test_the_variants_stand_in_their_order() -> None:
    inputs = qkv(1024, 1024, dim=128)
    exact, int8, fp8, int4 = (error(*inputs, variant=v) for v in ("exact", "int8-fp16", "int8-fp8", "int4-fp16"))
    assert exact < 1e-6
    assert int8 * 2 < fp8 < 0.05
    assert 0.15 < int4 < 0.3


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("variant", ["exact", "int8-fp16", "int8-fp8"])
def test_every_length_to_257(variant: str, causal: bool) -> None:
    limit = {"exact": 1e-6, "int8-fp16": 0.015, "int8-fp8": 0.06}[variant]
    inputs = qkv(257, 257)
    errors = {n: error(*(x[:n] for x in inputs), causal=causal, variant=variant) for n in range(1, 258)}
    assert {n: e for n, e in errors.items() if not e < limit} == {}


@pytest.mark.parametrize("tq", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("prefix", [1, 63, 64, 65, 200])
def test_queries_after_a_prefix_see_all_of_it(tq: int, prefix: int) -> None:
    inputs = qkv(tq, prefix + tq)
    assert error(*inputs, variant="exact") < 1e-6
    assert error(*inputs) < 0.015


@pytest.mark.parametrize("variant", ["exact", "int8-fp16", "int8-fp8"])
def test_grouping_of_key_blocks_is_invisible(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One loop step may take one key block or many; only fp32's order of summation may show."""
    q, k, v = qkv(70, 333)
    many = numerics.attention(q, k, v, scale=0.125, variant=variant)  # type: ignore[arg-type]
    monkeypatch.setattr(numerics, "_GROUP_ELEMENTS", {"cpu": 1})
    one = numerics.attention(q, k, v, scale=0.125, variant=variant)  # type: ignore[arg-type]
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-6)


def test_smoothing_removes_channel_offsets() -> None:
    """Each head has its own offset a channel: only the mean per head and channel takes it away."""
    q, k, v = qkv(1024, 1024, 4, 2, 128)
    k = k + 8 * normal(4, 1, 2, 128)
    assert error(q, k, v) == pytest.approx(INT8_ERROR, rel=0.1)
    assert error(q, k, v, smooth_k="off") > 3 * INT8_ERROR


def test_a_static_shift_serves_as_well_as_the_mean() -> None:
    q, k, v = qkv(512, 512, 4, 2, 128)
    offset = 8 * normal(4, 2, 128)
    assert error(q, k + offset, v, smooth_k="static", k_shift=offset) < 1.2 * INT8_ERROR


def test_a_balance_takes_away_what_rotates() -> None:
    """A large K bias that RoPE has turned has no mean to be smoothed away; Q is small there."""
    q, k, v = qkv(1024, 1024, 4, 2, 128)
    angle = 0.5 * torch.arange(1024)
    k[:, :, 3] += 100 * angle.cos()[:, None]
    k[:, :, 67] += 100 * angle.sin()[:, None]
    q[..., [3, 67]] *= 0.02
    balance = torch.ones(2, 128)
    balance[:, [3, 67]] = 64.0
    assert error(q, k, v, balance=balance) < 1.5 * INT8_ERROR
    assert error(q, k, v) > 5 * INT8_ERROR


@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8"])
def test_a_balance_of_powers_of_two_is_that_of_the_checkpoint_bit_for_bit(variant: str) -> None:
    q, k, v = qkv(200, 300, 4, 2)
    balance = torch.exp2(torch.randint(-3, 4, (2, 64), generator=torch.Generator().manual_seed(5)).float())
    given = numerics.attention(q, k, v, scale=0.125, variant=variant, balance=balance)  # type: ignore[arg-type]
    q, k = q * balance.repeat_interleave(2, 0), k / balance
    assert torch.equal(given, numerics.attention(q, k, v, scale=0.125, variant=variant))  # type: ignore[arg-type]


def test_the_mean_is_taken_in_fp32() -> None:
    """In bf16 a mean of 300 is rounded to steps of 2: the remainder would fill the INT8 range."""
    q, k, v = (x.bfloat16() for x in qkv(300, 300))
    want = numerics.attention(q.float(), (k + 300).float(), v.float(), scale=0.125)
    got = numerics.attention(q, k + 300, v, scale=0.125)
    torch.testing.assert_close(got.float(), want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("size", [40_000.0, 1e6, 2.0**70])
def test_v_beyond_fp16_is_scaled_exactly(size: float) -> None:
    q, k, v = qkv(200, 200, 2, 2)
    power = 2.0 ** math.floor(math.log2(size))
    big = v.clone()
    big[:, 1] *= power
    plain = numerics.attention(q, k, v, scale=0.125)
    scaled = numerics.attention(q, k, big, scale=0.125)
    torch.testing.assert_close(scaled[:, 0], plain[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(scaled[:, 1] / power, plain[:, 1], rtol=5e-3, atol=1e-5)


def test_a_block_of_large_equal_values_does_not_overflow() -> None:
    """64 values of 2,000 are fp16 numbers; their sum is not."""
    q, k = torch.zeros(64, 1, 64), normal(2, 64, 1, 64)
    out = numerics.attention(q, k, torch.full((64, 1, 64), 2000.0), scale=0.125)
    torch.testing.assert_close(out, torch.full_like(out, 2000.0), rtol=1e-3, atol=0)


def test_the_sum_of_a_block_is_an_fp16_number() -> None:
    """63 values of 32 and one of 33, weighted alike: fp16 has 2,048 and 2,050, not 2,049."""
    v = torch.full((64, 1, 64), 32.0)
    v[0] = 33.0
    zeros = torch.zeros_like(v)
    assert numerics.attention(zeros[:1], zeros, v, scale=0.125).eq(32.0).all()
    assert numerics.attention(zeros[:1], zeros, v, scale=0.125, variant="exact").eq(2049 / 64).all()


@pytest.mark.parametrize("variant", ["exact", "int8-fp16", "int8-fp8", "int4-fp16"])
@pytest.mark.parametrize("length", [1, 64, 100])
def test_zeros_and_single_tokens_are_finite(variant: str, length: int) -> None:
    zeros = torch.zeros(length, 2, 64)
    assert numerics.attention(zeros, zeros, zeros, scale=0.125, variant=variant).eq(0).all()  # type: ignore[arg-type]
    q, k, v = qkv(1, 1)
    torch.testing.assert_close(
        numerics.attention(q, k, v, scale=0.125, variant=variant),  # type: ignore[arg-type]
        v.expand_as(q),
        rtol=0.07 if variant == "int8-fp8" else 1e-3,
        atol=1e-2 if variant == "int8-fp8" else 1e-3,
    )


def test_fp8_keeps_channels_of_unlike_size_apart() -> None:
    q, k, v = qkv(300, 300)
    sizes = torch.logspace(-6, 6, 64)
    got = numerics.attention(q, k, v * sizes, scale=0.125, variant="int8-fp8") / sizes
    want = float64_attention(q, k, v)
    assert ((got - want).norm(dim=(0, 1)) / want.norm(dim=(0, 1))).max() < 0.06


def test_fp8_sums_are_cut_to_13_fraction_bits() -> None:
    """1 + 2^-14 survives fp32 and not the model of Hopper's FP8 accumulator; what it drops goes toward zero."""
    cut = numerics._cut(torch.tensor([1 + 2**-14, -1 - 2**-14, 1 + 2**-13, 3.0]))
    assert cut.tolist() == [1.0, -1.0, 1 + 2**-13, 3.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth_k": "static"}, "k_shift"),
        ({"smooth_k": "mean"}, "smooth_k"),
        ({"variant": "int2"}, "variant"),
        ({"smooth_k": "static", "k_shift": torch.zeros(3, 64)}, "k_shift has shape"),
        ({"balance": torch.ones(3, 64)}, "balance has shape"),
    ],
)
def test_settings_that_cannot_work_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numerics.attention(*qkv(4, 4), scale=0.125, **options)


@pytest.mark.parametrize(("tq", "tk", "hkv"), [(5, 4, 1), (0, 4, 1), (4, 4, 3)])
def test_shapes_that_do_not_fit_are_refused(tq: int, tk: int, hkv: int) -> None:
    with pytest.raises(ValueError, match=r"needed|needs"):
        numerics.attention(*qkv(tq, tk, 2, hkv), scale=0.125)


def test_fp8_takes_128_keys_to_a_step_of_the_softmax() -> None:
    """The largest logit is among the last keys: the first 64, as a step of their own, would be rounded otherwise."""
    q, k, v = qkv(1, 128, 1, 1)
    k[100] = q[0] / 2
    q_codes, q_scale = numerics.quantise_q(q, 0.125)
    k_codes, k_scales = numerics.quantise_k(k, k.mean(0))
    s = (k_codes[:, 0].float() @ q_codes[0, 0].float()) * q_scale[0, 0] * k_scales[:, 0].repeat_interleave(64)
    assert s.argmax() == 100
    p = torch.exp2(s - s.max())
    scale = v[:, 0].abs().amax(0) / 448
    values = (v[:, 0] * scale.reciprocal()).to(torch.float8_e4m3fn).float()
    want = (p * 256).to(torch.float8_e4m3fn).float() @ values * (scale / 256) / p.sum()
    got = numerics.attention(q, k, v, scale=0.125, variant="int8-fp8")[0, 0]
    assert (got - want).norm() < 1e-3 * want.norm()
