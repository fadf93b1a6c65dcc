"""INT8 codes and scales bit for bit against loops over single numbers, in NumPy's float32."""

import math

import numpy as np
import pytest
import torch

from sage_eval.attention import numerics


def loop_codes(x: np.ndarray, block: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of x [T, H, D] in fp32, one number after the other."""
    length, heads, dim = x.shape
    codes = np.zeros(x.shape, np.int8)
    scales = np.zeros((math.ceil(length / block), heads), np.float32)
    for b in range(scales.shape[0]):
        for h in range(heads):
            rows = range(b * block, min((b + 1) * block, length))
            largest = max((abs(x[t, h, d]) for t in rows for d in range(dim)), default=np.float32(0))
            scale = max(np.float32(largest) / np.float32(top), np.finfo(np.float32).tiny)
            scales[b, h] = scale
            inverse = np.float32(1) / scale
            for t in rows:
                for d in range(dim):
                    ratio = x[t, h, d] * inverse
                    codes[t, h, d] = int(ratio + np.float32(0.5 if ratio >= 0 else -0.5))
    return codes, scales


@pytest.fixture(params=[(1, 8), (130, 8), (257, 8), (70, 4)], ids=lambda p: f"T{p[0]}-int{p[1]}")
def case(request: pytest.FixtureRequest) -> tuple[torch.Tensor, int]:
    """Numbers with another magnitude every 40 tokens and in each head, so that neighbouring blocks differ in scale."""
    length, bits = request.param
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(length, 2, 24, generator=generator) * torch.tensor([1.0, 30.0])[:, None]
    return x * (2.0 ** (torch.arange(length) // 40))[:, None, None], bits


def test_q_codes_are_those_of_the_loops(case: tuple[torch.Tensor, int]) -> None:
    q, bits = case
    codes, scales = numerics.quantise_q(q, 24**-0.5, bits)
    factor = np.float32(24**-0.5 * math.log2(math.e))
    want_codes, want_scales = loop_codes(q.numpy() * factor, 128, 2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(scales.numpy(), want_scales)
    np.testing.assert_array_equal(codes.numpy(), want_codes)


def test_k_codes_are_those_of_the_loops(case: tuple[torch.Tensor, int]) -> None:
    k, bits = case
    shift = k.mean(0)
    codes, scales = numerics.quantise_k(k, shift, bits)
    want_codes, want_scales = loop_codes(k.numpy() - shift.numpy(), 64, 2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(scales.numpy(), want_scales)
    np.testing.assert_array_equal(codes.numpy(), want_codes)


def test_balanced_codes_are_those_of_the_loops(case: tuple[torch.Tensor, int]) -> None:
    """Two query heads to a KV head; Q is multiplied after the softmax scale, K divided after the shift."""
    k, bits = case
    balance, shift = torch.rand(2, 24, generator=torch.Generator().manual_seed(1)) + 0.1, k.mean(0)
    q, top = k.repeat_interleave(2, 1), 2 ** (bits - 1) - 1
    codes, scales = numerics.quantise_q(q, 24**-0.5, bits, balance)
    factor = np.float32(24**-0.5 * math.log2(math.e))
    want = loop_codes(q.numpy() * factor * balance.numpy()[[0, 0, 1, 1]], 128, top)
    np.testing.assert_array_equal(codes.numpy(), want[0])
    np.testing.assert_array_equal(scales.numpy(), want[1])
    codes, scales = numerics.quantise_k(k, shift, bits, balance)
    want = loop_codes((k.numpy() - shift.numpy()) * (np.float32(1) / balance.numpy()), 64, top)
    np.testing.assert_array_equal(codes.numpy(), want[0])
    np.testing.assert_array_equal(scales.numpy(), want[1])


def test_halves_round_away_from_zero() -> None:
    k = torch.tensor([127.0, 0.5, -0.5, 1.5, -2.5, 0.25]).view(1, 1, 6)
    codes, _ = numerics.quantise_k(k, None)
    assert codes.flatten().tolist() == [127, 1, -1, 2, -3, 0]


def test_an_all_zero_block_has_a_positive_scale() -> None:
    k = torch.zeros(128, 1, 8)
    k[64:] = 1.0
    codes, scales = numerics.quantise_k(k, None)
    assert (scales > 0).all()
    assert codes[:64].eq(0).all()
    assert codes[64:].eq(127).all()
