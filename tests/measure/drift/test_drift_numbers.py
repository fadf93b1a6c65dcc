"""The arithmetic of drift: sums of a prompt, their reduction over prompts, and K's outliers."""

import math

import numpy as np
import pytest
import torch

from sage_eval.errors import EngineError
from sage_eval.measure.drift import record
from sage_eval.measure.drift.lines import Line, outliers, sums


def pair(tokens=200, heads=4, dim=64, noise=0.05, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tokens, heads, dim, generator=generator)
    return base.to(dtype), (base + noise * torch.randn(tokens, heads, dim, generator=generator)).to(dtype)


def line(prompt, layer, found, arm="sage"):
    return Line(cell="own inputs", arm=arm, prompt=prompt, layer=layer, sums=found)


def test_the_metrics_are_their_formulas_over_all_prompts():
    pairs = [pair(seed=0), pair(seed=1, noise=0.2)]
    [found] = record.layers([line(i, 0, sums(*tensors)) for i, tensors in enumerate(pairs)], 2)
    a, b = (np.concatenate([tensors[i].double().numpy() for tensors in pairs]) for i in (0, 1))
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    cosines = (flat_a * flat_b).sum(1) / np.linalg.norm(flat_a, axis=1) / np.linalg.norm(flat_b, axis=1)
    heads = np.linalg.norm(b - a, axis=(0, 2)) / np.linalg.norm(a, axis=(0, 2))
    assert found.relative_l2 == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-12)
    assert found.relative_l1 == pytest.approx(np.abs(b - a).sum() / np.abs(a).sum(), rel=1e-12)
    assert found.rmse == pytest.approx(np.sqrt(((b - a) ** 2).mean()), rel=1e-12)
    assert found.largest == np.abs(b - a).max()
    assert found.cosine == pytest.approx(cosines.mean(), rel=1e-12)
    assert (found.worst_prompt, found.worst_position) == divmod(int(cosines.argmin()), 200)
    assert found.worst_cosine == pytest.approx(cosines.min(), rel=1e-12)
    assert (found.worst_head, found.worst_head_l2) == (heads.argmax(), pytest.approx(heads.max(), rel=1e-12))
    assert found.range_l2[0] < found.relative_l2 < found.range_l2[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equal_tensors_have_no_distance_at_all(dtype):
    base, _ = pair(dtype=dtype)
    found = record.drift(0, {0: sums(base, base.clone())})
    assert (found.relative_l2, found.relative_l1, found.rmse, found.largest) == (0, 0, 0, 0)
    assert (found.cosine, found.worst_cosine) == (1, 1)


def test_a_token_of_zeros_agrees_with_itself_and_with_no_other():
    base, other = torch.zeros(3, 1, 64), torch.zeros(3, 1, 64)
    base[0] = other[0] = 1
    assert sums(base, other).worst_cosine == 1
    other[2] = 1
    found = sums(base, other)
    assert (found.worst_cosine, found.worst_position) == (0, 2)


def test_a_distance_from_nothing_is_infinite_and_none_from_nothing_is_zero():
    assert record.relative(4, 1) == 2
    assert record.relative(1, 0) == math.inf
    assert record.relative(0, 0) == 0


def test_a_prompt_that_a_layer_did_not_see_or_saw_twice_is_an_error():
    found = sums(*pair())
    with pytest.raises(EngineError, match=r"not all of 2 prompts were seen in layers \[1\]"):
        record.layers([line(0, 0, found), line(1, 0, found), line(0, 1, found)], 2)
    with pytest.raises(EngineError, match="layer 0 computed prompt 0 twice"):
        record.layers([line(0, 0, found), line(0, 0, found)], 1)


def test_smoothing_takes_off_a_channel_that_is_large_everywhere_and_not_one_that_varies():
    keys = torch.randn(256, 2, 64, generator=torch.Generator().manual_seed(3))
    constant, varying = keys.clone(), keys.clone()
    constant[:, 1, 5] += 40
    varying[:, 1, 5] *= 20
    assert outliers(constant, smoothed=False).ratio > 10
    assert outliers(constant, smoothed=True).ratio < 2
    assert outliers(varying, smoothed=True).ratio == pytest.approx(outliers(varying, smoothed=False).ratio, rel=0.1)
    assert outliers(varying, smoothed=True).ratio > 10


def test_r_is_the_median_block_and_the_last_is_left_out_unless_full():
    keys = torch.ones(64 * 3 + 10, 1, 64)
    for block, peak in enumerate((2.0, 5.0, 9.0, 100.0)):
        keys[64 * block, 0, 7] = -peak
    found = outliers(keys, smoothed=False)
    assert (found.largest, found.median, found.peak, found.ratio) == (100, 1, 5, 5)


def test_keys_are_medians_over_prompts_layer_by_layer():
    def keyed(prompt, scale):
        found = tuple(outliers(scale * torch.ones(64, 1, 64), smoothed=smoothed) for smoothed in (False, True))
        return line(prompt, 3, None).model_copy(update={"keys": found})

    [found] = record.keys([keyed(i, scale) for i, scale in enumerate((1.0, 2.0, 9.0))])
    assert (found.layer, found.raw.peak, found.smoothed.peak) == (3, 2, 0)
