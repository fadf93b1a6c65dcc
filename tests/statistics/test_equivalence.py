"""Equivalence, planning and Holm against statsmodels, and simulated power."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from sage_eval.statistics.equivalence import at_level, equivalence, holm, items_to_settle, minimum_detectable_effect
from sage_eval.statistics.paired import mean, paired_difference
from tests.statistics import quick


def scores(seed=0, n=200, shift=0.01):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    return base, base + rng.normal(shift, 0.1, n)


def answers(lost, gained, n):
    base, cand = np.zeros(n), np.zeros(n)
    base[:lost] = 1
    cand[lost : lost + gained] = 1
    return paired_difference(base, cand)


@pytest.mark.parametrize("margin", [0.005, 0.02, 0.05])
def test_tost_is_that_of_statsmodels(margin):
    base, cand = scores()
    expected = ttost_paired(cand, base, -margin, margin)[0]
    found = paired_difference(base, cand)
    assert equivalence(replace(found, resampled=None), margin).p == pytest.approx(expected)
    assert expected <= equivalence(found, margin).p < expected + 0.05


@quick
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.002, 0.05), st.sampled_from([0.01, 0.05, 0.1]))
def test_p_value_and_interval_agree(lost, gained, margin, alpha):
    test = equivalence(answers(lost, gained, 2_000), margin, alpha)
    assert test.equivalent == (-margin < test.interval.low and test.interval.high < margin)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.99])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("clusters", [None, np.arange(200) // 4])
def test_another_level_needs_no_data(level, binary, clusters):
    base, cand = scores()
    if binary:
        base, cand = base > 0, cand > 0
    again = at_level(paired_difference(base, cand, clusters=clusters), level)
    assert again == paired_difference(base, cand, clusters=clusters, level=level)


def test_identical_answers_are_equivalent_once_there_are_enough():
    # the 90 % interval reaches z²/(n + z²), z = 1.645: below 0.5 % from 539 items on
    assert not equivalence(answers(0, 0, 538), 0.005).equivalent
    assert equivalence(answers(0, 0, 539), 0.005).equivalent


def test_too_few_items_are_never_equivalent():
    test = equivalence(answers(0, 0, 29), 0.5)
    assert (test.p, test.equivalent) == (None, False)


def test_bit_identical_scores_are_equivalent():
    assert equivalence(paired_difference(np.arange(50.0), np.arange(50.0)), 1e-9).equivalent


def test_constant_shift_beyond_the_margin_is_not_equivalent():
    base = np.arange(64.0)
    assert not equivalence(paired_difference(base, base + 0.5), 0.25).equivalent


@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_margin_must_be_positive(margin):
    with pytest.raises(ValueError, match="margin must be positive"):
        equivalence(answers(1, 1, 100), margin)


def test_score_of_one_arm_cannot_be_read_at_another_level():
    with pytest.raises(ValueError, match="Wilson"):
        at_level(mean([0, 1] * 50), 0.9)


def test_detectable_effect_is_that_of_statsmodels():
    base, cand = scores(n=2_000)
    estimate = paired_difference(base, cand)
    expected = TTestPower().solve_power(nobs=2_000, alpha=0.05, power=0.8) * np.std(cand - base, ddof=1)
    assert minimum_detectable_effect(estimate) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("n", "rate", "expected"), [(14_042, 0.005, 0.17), (1_172, 0.02, 1.16), (541, 0.05, 2.69)])
def test_detectable_effect_of_flips(n, rate, expected):
    # 2.80·√(rate/n) in percentage points, for as many gains as losses
    half = round(n * rate / 2)
    assert 100 * minimum_detectable_effect(answers(half, half, n)) == pytest.approx(expected, rel=0.06)


def test_detectable_effect_without_flips_is_not_zero():
    assert minimum_detectable_effect(answers(0, 0, 1_000)) > 2.7 / 1_000


def test_items_that_settle_give_the_promised_power():
    rng = np.random.default_rng(0)
    pilot = paired_difference(*scores(seed=3, n=100, shift=0.0))
    margin = 0.02
    n = items_to_settle(pilot, margin)
    spread, shift = pilot.se * 10, pilot.value

    def settled(items):
        base = rng.normal(size=items)
        again = paired_difference(base, base + rng.normal(shift, spread, items))
        return equivalence(again, margin).equivalent or not again.low <= 0 <= again.high

    assert np.mean([settled(n) for _ in range(300)]) >= 0.8
    assert np.mean([settled(n // 3) for _ in range(300)]) < 0.8


@quick
@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.001, 0.05))
def test_items_that_settle_are_more_than_there_are(lost, gained, margin):
    assert items_to_settle(answers(lost, gained, 1_000), margin) > 1_000


def test_more_tests_need_more_items():
    estimate = answers(12, 4, 1_000)
    assert items_to_settle(estimate, 0.005, tests=10) > items_to_settle(estimate, 0.005)


def test_holm_example():
    # Holm, Scandinavian Journal of Statistics 6:65 (1979): p·(m − rank), made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize("p_values", [[0.2], [0.04, 0.01, 0.04, 0.9, 0.0], np.random.default_rng(1).random(20) ** 3])
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
