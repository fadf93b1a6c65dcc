"""Flips, McNemar and score intervals against published tables and statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from sage_eval.statistics.paired import paired_difference
from sage_eval.statistics.proportions import Flips, flips, mcnemar_exact, tango_interval, tango_statistic, wilson
from tests.statistics import quick


def test_flips_count_the_table():
    table = flips([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0])
    assert table == Flips(both=2, neither=1, lost=1, gained=2)
    assert (table.n, table.rate) == (6, 0.5)
    assert table.difference == pytest.approx(1 / 6)


@pytest.mark.parametrize("bad", [[0, 2], [0.5, 1], [], [[1, 0]]])
def test_flips_want_zeros_and_ones(bad):
    with pytest.raises(ValueError, match="array of 0 and 1"):
        flips(bad, bad)


def test_airway_example():
    # Bentur et al. 2009, table (1, 1; 7, 12); Fagerland, Lydersen & Laake, Statistics in Medicine 33:2850 (2014)
    low, high = tango_interval(gained=1, lost=7, n=21)
    assert (float(low), float(high)) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert mcnemar_exact(7, 1) == pytest.approx(0.070, abs=5e-4)


def test_presidential_approval_example():
    # Agresti, Categorical Data Analysis §10.1: table (794, 150; 86, 570), difference −0.04, SE 0.0095, z² = 17.36
    base = np.repeat([1, 1, 0, 0], [794, 150, 86, 570])
    cand = np.repeat([1, 0, 1, 0], [794, 150, 86, 570])
    ours = paired_difference(base, cand)
    assert (ours.value, ours.se) == pytest.approx((-0.04, 0.0095), abs=1e-4)
    assert (ours.low, ours.high) == pytest.approx((-0.06, -0.02), abs=2e-3)
    assert float(tango_statistic(86, 150, 1600, 0.0)) ** 2 == pytest.approx(17.36, abs=5e-3)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_examples(successes, n, low, high):
    # Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 5), (3, 9), (40, 41), (150, 86)])
def test_exact_mcnemar_is_that_of_statsmodels(lost, gained):
    expected = mcnemar([[10, lost], [gained, 10]], exact=True).pvalue if lost + gained else 1.0
    assert mcnemar_exact(lost, gained) == pytest.approx(expected)


@pytest.mark.parametrize("n", [100, 1_319, 14_042])
def test_no_flip_at_all_still_leaves_a_bound(n):
    same = np.arange(n) % 2
    ours, one_sided = paired_difference(same, same), paired_difference(same, same, level=0.9)
    z = stats.norm.ppf(0.975)
    assert (ours.value, ours.se, ours.p) == (0, 0, 1)
    assert (ours.low, ours.high) == pytest.approx((-(z**2) / (n + z**2), z**2 / (n + z**2)))
    assert 2.6 / n < one_sided.high < 3 / n


def test_every_answer_flipped_reaches_the_end_of_the_scale():
    ours = paired_difference(np.ones(100), np.zeros(100))
    assert ours.low == pytest.approx(-1)
    assert ours.high < -0.9


def test_ends_solve_the_score_equation():
    gained, lost = np.array([0, 3, 20, 0]), np.array([5, 3, 11, 40])
    z = stats.norm.ppf(0.975)
    low, high = tango_interval(gained, lost, 500)
    assert tango_statistic(gained, lost, 500, low) == pytest.approx(np.full(4, z))
    assert tango_statistic(gained, lost, 500, high) == pytest.approx(np.full(4, -z))


def width(estimate):
    return estimate.high - estimate.low


def test_clustered_flips_widen_and_stratified_ones_narrow_the_interval():
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(40), 50)
    harm = (np.arange(40) % 2)[subject] * 0.2
    base = np.ones(2_000)
    cand = np.where(rng.random(2_000) < harm, 0, base)
    plain, clustered = paired_difference(base, cand), paired_difference(base, cand, clusters=subject)
    stratified = paired_difference(base, cand, strata=subject)
    assert width(stratified) < width(plain) < width(clustered)
    assert width(clustered) == pytest.approx(2 * 1.96 * clustered.se, rel=0.1)


def test_stratified_p_value_stays_exact_where_flips_are_few():
    # five losses in five subjects: the score test would say p = 0.025
    base, cand = np.ones(1_000), np.ones(1_000)
    cand[:1_000:200] = 0
    ours = paired_difference(base, cand, strata=np.arange(1_000) // 100)
    assert ours.p == pytest.approx(2 * 0.5**5, rel=0.02)


def test_a_stratum_that_is_lost_whole_does_not_shrink_the_interval_to_nothing():
    base, cand = np.ones(1_000), np.ones(1_000)
    cand[:101] = 0
    subjects = np.arange(1_000) // 100
    plain, stratified = paired_difference(base, cand), paired_difference(base, cand, strata=subjects)
    assert 0.5 * width(plain) < width(stratified) < width(plain)


def test_flips_that_cancel_in_every_cluster_do_not_shrink_the_interval():
    base, cand = np.tile([1, 0, 1, 1], 40), np.tile([0, 1, 1, 1], 40)
    clustered = paired_difference(base, cand, clusters=np.repeat(np.arange(40), 4))
    plain = width(paired_difference(base, cand))
    assert plain < width(clustered) < 1.05 * plain  # 40 clusters know their spread less well than 160 items


@quick
@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 5_000))
def test_score_interval_holds_the_estimate_and_mirrors(gained, lost, n):
    low, high = tango_interval(gained, lost, n)
    mirrored = tango_interval(lost, gained, n)
    assert -1 <= low < (gained - lost) / n < high <= 1 or gained == lost == 0
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-12)
