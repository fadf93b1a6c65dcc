"""Paired estimates against statsmodels, a published example, and what must not matter."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sage_eval.statistics.paired import mean, paired_difference, paired_ratio_difference, ratio_of_sums, recovery
from tests.statistics import quick

seeds = st.integers(0, 10_000)


def arms(seed, n=80, binary=False):
    rng = np.random.default_rng(seed)
    base, noise = rng.normal(size=n), rng.normal(0.1, 0.3, size=n)
    return ((base > 0).astype(float), (base + noise > 0).astype(float)) if binary else (base, base + noise)


def ends(estimate):
    return [estimate.value, estimate.se, estimate.low, estimate.high]


def test_difference_is_the_paired_t_test():
    base, cand = arms(1)
    ours, scipys = paired_difference(base, cand), stats.ttest_rel(cand, base)
    interval = scipys.confidence_interval(0.95)
    assert ends(ours)[2:] == pytest.approx([interval.low, interval.high])
    assert ours.p == pytest.approx(scipys.pvalue)


def test_clustered_error_is_that_of_statsmodels():
    rng = np.random.default_rng(2)
    documents = rng.integers(0, 40, 900)
    x = rng.normal(size=900) + rng.normal(size=40)[documents]
    fit = sm.OLS(x, np.ones(900)).fit(
        cov_type="cluster", cov_kwds={"groups": documents, "df_correction": True}, use_t=True
    )
    ours = mean(x, clusters=documents)
    assert ours.se == pytest.approx(fit.bse[0])
    assert (ours.low, ours.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert ours.se > 2 * mean(x).se


def test_ratio_error_is_that_of_weighted_regression_through_the_origin():
    rng = np.random.default_rng(3)
    words = rng.integers(20, 900, 60).astype(float)
    loss = words * rng.normal(3, 0.4, 60)
    fit = sm.WLS(loss, words, weights=1 / words).fit(
        cov_type="cluster", cov_kwds={"groups": np.arange(60), "df_correction": True}, use_t=True
    )
    ours = ratio_of_sums(loss, words)
    assert ours.value == pytest.approx(loss.sum() / words.sum())
    assert ours.value == pytest.approx(fit.params[0])
    assert ours.se == pytest.approx(fit.bse[0])


def test_stratified_error_is_the_sum_over_strata():
    rng = np.random.default_rng(4)
    subject = np.repeat(np.arange(5), [40, 60, 30, 20, 50])
    x = rng.normal(subject, 1.0)
    expected = (
        sum(
            (np.sum(subject == h) / 200) ** 2 * np.var(x[subject == h], ddof=1) / np.sum(subject == h) for h in range(5)
        )
        ** 0.5
    )
    assert mean(x, strata=subject).se == pytest.approx(expected)


def test_clusters_of_one_are_no_clusters():
    base, cand = arms(5)
    assert ends(paired_difference(base, cand, clusters=np.arange(80))) == pytest.approx(
        ends(paired_difference(base, cand))
    )


def test_strata_of_one_item_are_pooled_and_keep_their_spread():
    x = np.random.default_rng(6).normal(size=50)
    assert mean(x, strata=np.arange(50)).se == pytest.approx(mean(x).se)


def test_labels_may_be_text():
    base, cand = arms(7)
    numbers = np.arange(80) % 40
    text = [f"document {i}" for i in numbers]
    assert ends(paired_difference(base, cand, clusters=text)) == pytest.approx(
        ends(paired_difference(base, cand, clusters=numbers))
    )


def test_log_perplexity_difference_is_paired():
    rng = np.random.default_rng(8)
    words = rng.integers(50, 400, 50)
    base = words * rng.normal(3, 0.5, 50)
    cand = base + words * rng.normal(0.002, 0.001, 50)
    ours = paired_ratio_difference(base, cand, words)
    assert ours.value == pytest.approx(ratio_of_sums(cand, words).value - ratio_of_sums(base, words).value)
    assert ours.se < ratio_of_sums(base, words).se / 100


def test_accuracy_of_one_arm_is_wilsons_interval():
    x = np.repeat([1, 0], [90, 30])
    ours = mean(x)
    assert ours.method == "Wilson score"
    assert (ours.low, ours.high) == pytest.approx(proportion_confint(90, 120, method="wilson"))


def test_recovery_is_a_percentage_of_the_baseline():
    base, cand = np.repeat([1, 0], [80, 20]), np.repeat([1, 0], [76, 24])
    ours = recovery(base, cand)
    assert ours.value == pytest.approx(95.0)
    assert ours.low < 95 < ours.high < 100


@pytest.mark.parametrize("clusters", [None, np.repeat(np.arange(29), 10)])
def test_too_few_units_get_no_interval(clusters):
    n = 29 if clusters is None else 290
    ours = paired_difference(np.zeros(n), np.ones(n), clusters=clusters)
    assert (ours.value, ours.se, ours.low, ours.high) == (1.0, None, None, None)
    assert ours.method == "too few (29 independent units)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1, 2], [1, 2, 3]), "baseline has 2 items, candidate has 3 items"),
        (lambda: mean([1.0, np.nan]), "1 of 2 values are NaN"),
        (lambda: mean([]), "non-empty"),
        (lambda: mean(np.ones((2, 2))), "one-dimensional"),
        (lambda: ratio_of_sums([1.0, 1.0], [1.0, -1.0]), "denominator"),
        (lambda: mean(np.ones(40), clusters=[1, 2]), "clusters: want one label for each of the 40"),
        (lambda: mean(np.ones(40), level=95), "level must lie between 0 and 1"),
        (lambda: mean(np.arange(40), clusters=np.arange(40) // 2, strata=np.arange(40) % 2), "more than one stratum"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@quick
@given(seeds, st.booleans())
def test_swapping_the_arms_mirrors_the_interval(seed, binary):
    base, cand = arms(seed, binary=binary)
    there, back = paired_difference(base, cand), paired_difference(cand, base)
    assert [there.value, there.low, there.high] == pytest.approx([-back.value, -back.high, -back.low], abs=1e-12)
    assert there.p == pytest.approx(back.p)


@quick
@given(seeds, st.booleans())
def test_order_of_items_does_not_matter(seed, binary):
    base, cand = arms(seed, binary=binary)
    label, order = np.arange(80) // 2, np.random.default_rng(seed).permutation(80)
    there = paired_difference(base, cand, clusters=label)
    assert ends(paired_difference(base[order], cand[order], clusters=label[order])) == pytest.approx(ends(there))


@quick
@given(seeds, st.floats(1e-3, 1e3))
def test_units_scale_the_whole_estimate(seed, factor):
    base, cand = arms(seed)
    scaled = ends(paired_difference(base * factor, cand * factor))
    assert scaled == pytest.approx([factor * x for x in ends(paired_difference(base, cand))])


@quick
@given(seeds, st.floats(-50, 50))
def test_difficulty_shared_by_both_arms_cancels(seed, shift):
    base, cand = arms(seed)
    assert ends(paired_difference(base + shift, cand + shift)) == pytest.approx(
        ends(paired_difference(base, cand)), abs=1e-9
    )


@quick
@given(seeds, st.booleans())
def test_higher_levels_are_wider(seed, binary):
    base, cand = arms(seed, binary=binary)
    narrow, wide = (paired_difference(base, cand, level=level) for level in (0.9, 0.99))
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high
