"""How many times as fast, and how sure that is."""

import numpy as np

from sage_eval.probes.ratio import ratio


def test_a_ratio_of_many_rounds_has_a_bootstrap_interval():
    rng = np.random.default_rng(0)
    candidate = 1 + 0.05 * rng.standard_normal(60)
    found = ratio(list(2 * candidate * (1 + 0.01 * rng.standard_normal(60))), list(candidate), paired=True)
    assert found["low"] < 2.0 < found["high"]
    # Paired: what both rounds share (5 %) does not widen it.
    assert found["high"] - found["low"] < 0.1
    assert found["method"].startswith("bootstrap")


def test_a_ratio_of_few_rounds_says_that_it_is_a_range():
    found = ratio([2.0, 3.0, 4.0], [1.0, 1.0, 1.0], paired=True)
    assert (found["value"], found["low"], found["high"]) == (3.0, 2.0, 4.0)
    assert found["method"] == "range of 3 rounds"


def test_rounds_that_one_arm_lacks_are_left_out():
    assert ratio([2.0, 2.0, 90.0], [1.0, 1.0], paired=True)["value"] == 2.0


def test_runs_one_after_the_other_get_no_interval():
    found = ratio([2.0] * 50, [1.0] * 40, paired=False)
    assert (found["value"], found["low"], found["method"]) == (2.0, None, "not interleaved")
