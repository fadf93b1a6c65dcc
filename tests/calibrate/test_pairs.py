"""Which pairs are chosen, on keys made so that the right answer is known."""

import math

import pytest
import torch

from sage_eval.calibrate.layouts import Layout
from sage_eval.calibrate.stress import block_peaks, choose, reference_scale

HALF, INTERLEAVED = Layout(), Layout(interleaved=True)


@pytest.fixture
def keys():
    """Three heads of width 16; channels ±1 at random, so that every block's peak is about 1."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 2, (256, 3, 16), generator=generator) * 2.0 - 1


def chosen(keys, layout=HALF, count=1, shared=False):
    return choose(block_peaks(keys, layout), count, shared=shared)


@pytest.mark.parametrize(("layout", "pair"), [(HALF, 5), (INTERLEAVED, 6)])
def test_the_pair_of_the_widest_channel_is_chosen_by_the_layout_of_the_rotation(keys, layout, pair):
    keys[:, :, 13] *= 4
    assert chosen(keys, layout).pairs == [[pair]] * 3


def test_a_mean_does_not_count_because_smoothing_removes_it(keys):
    keys[:, :, 3] += 100
    keys[:, :, 4] *= 2
    assert chosen(keys).pairs == [[4]] * 3


def test_a_spike_in_one_block_does_not_count(keys):
    keys[70, :, 3] = 100
    keys[:, :, 4] *= 2
    assert chosen(keys).pairs == [[4]] * 3


def test_a_last_block_that_is_not_full_is_left_out(keys):
    keys[192:] = 50
    moved = block_peaks(keys[:200], HALF) - block_peaks(keys[:192], HALF)
    # Its keys still move the mean, by 50 · 8 / 200.
    assert moved.amax() < 3


def test_each_head_has_its_own_pair_and_the_ratio_says_how_it_stands_to_the_others(keys):
    for head, scale in enumerate((2, 4, 8)):
        keys[:, head, head + 8] *= scale
    found = chosen(keys)
    assert found.pairs == [[0], [1], [2]]
    assert found.ratios == pytest.approx([1 / 2, 1 / 4, 1 / 8], rel=0.3)


def test_two_pairs_are_those_of_the_two_largest_peaks(keys):
    keys[:, :, 1] *= 3
    keys[:, :, 6] *= 5
    found = chosen(keys, count=2)
    assert found.pairs == [[1, 6]] * 3
    assert found.ratios == pytest.approx([1 / 3] * 3, rel=0.3)


def test_heads_that_share_a_norm_take_the_pair_whose_worst_head_needs_least(keys):
    """Pair 0 is best for two heads and nothing in the third; pair 2 is good in all."""
    keys[:, :2, 0] *= 8
    keys[:, 2, [0, 8]] *= 0.01
    keys[:, :, 2] *= 4
    assert chosen(keys).pairs == [[0], [0], [2]]
    found = chosen(keys, shared=True)
    assert found.pairs == [[2]] * 3
    assert found.ratios == pytest.approx([2, 2, 1 / 4], rel=0.3)


def test_the_reference_scale_makes_the_pair_sixteenfold_in_the_worst_head(keys):
    for head, scale in enumerate((2, 4, 8)):
        keys[:, head, 0] *= scale
    found = chosen(keys)
    scale = reference_scale([found])
    assert math.log2(scale) % 1 == 0
    assert 16 <= scale / max(found.ratios) < 32
    peaks = block_peaks(keys, HALF)
    assert (scale * peaks[:, 0] >= 16 * peaks[:, 1:].amax(1)).all()


def test_what_dominates_already_needs_no_scale(keys):
    keys[:, :, 0] *= 100
    assert reference_scale([chosen(keys)]) == 1


def test_a_dead_head_asks_for_nothing(keys):
    keys[:, 0] = 0
    assert reference_scale([chosen(keys)]) in (16, 32)


def test_heads_that_share_a_norm_and_have_no_live_pair_in_common_ask_for_the_impossible(keys):
    keys[:, 0, 1:] = 0
    keys[:, 1, :15] = 0
    assert reference_scale([chosen(keys)]) in (16, 32)
    assert reference_scale([chosen(keys, shared=True)]) == math.inf
