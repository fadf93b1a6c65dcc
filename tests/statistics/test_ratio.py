"""How many times as fast, and how sure that is."""

import numpy as np
import pytest

from sage_eval.statistics.ratio import Ratio, ratio


def test_many_rounds_have_a_paired_confidence_interval():
    rng = np.random.default_rng(0)
    candidate = 1 + 0.05 * rng.standard_normal(60)
    found = ratio(list(2 * candidate * (1 + 0.01 * rng.standard_normal(60))), list(candidate), paired=True)
    assert found.low < 2.0 < found.high
    # Paired: what both rounds share (5 %) does not widen it.
    assert found.high - found.low < 0.1
    assert (found.rounds, found.interval) == (60, "confidence")


def test_few_rounds_have_their_range():
    assert ratio([2.0, 3.0, 4.0, 3.0, 3.0], [1.0] * 5, paired=True) == Ratio(3.0, 2.0, 4.0, 5, "range")


@pytest.mark.parametrize("rounds", [2, 4])
def test_fewer_than_five_rounds_have_no_range(rounds):
    assert ratio([2.0, 3.0, 4.0, 3.0][:rounds], [1.0] * rounds, paired=True).interval == "few rounds"


def test_rounds_that_drift_have_their_range():
    drift = list(np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.1, 40))))
    assert ratio(drift, [1.0] * 40, paired=True).interval == "range"
    # A drift that both arms share takes nothing from what their ratio is worth.
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, 40))
    assert ratio(list(np.array(drift) * noise), drift, paired=True).interval == "confidence"


def test_rounds_that_one_arm_lacks_are_left_out():
    assert ratio([2.0, 2.0, 90.0], [1.0, 1.0], paired=True).value == 2.0
    assert ratio([2.0, 90.0], [1.0], paired=True) == Ratio(2.0, None, None, 1, "one round")


def test_runs_one_after_the_other_have_no_interval():
    assert ratio([2.0] * 50, [1.0] * 40, paired=False) == Ratio(2.0, None, None, 40, "not interleaved")


@pytest.mark.parametrize(("baseline", "candidate"), [([], [1.0]), ([1.0], [])])
@pytest.mark.parametrize("paired", [True, False])
def test_no_round_is_no_ratio(baseline, candidate, paired):
    with pytest.raises(ValueError, match="no round"):
        ratio(baseline, candidate, paired=paired)
