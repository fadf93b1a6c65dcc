"""Paired estimates against statsmodels, a published example, and what must not matter."""

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sage_eval.statistics.equivalence import at_level
from sage_eval.statistics.paired import mean, paired_difference, paired_ratio_difference, ratio_of_sums
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
    plain = at_level(replace(ours, resampled=None), 0.95)
    assert ends(plain)[2:] == pytest.approx([interval.low, interval.high])
    # No shorter for the bootstrap-t, and hardly longer where nothing is skewed.
    assert ours.low <= interval.low < interval.high <= ours.high
    assert ours.high - ours.low < 1.1 * (interval.high - interval.low)
    assert ours.p >= scipys.pvalue


def cr2(residuals, x, labels):
    """CR2 and Bell and McCaffrey's degrees of freedom of a ratio by matrices, as regression through the origin."""
    n, total = x.size, x.sum()
    hat = np.outer(x, np.ones(n)) / total
    rest, scores = np.eye(n) - hat, []
    for c in np.unique(labels):
        mine = labels == c
        share = x[mine].sum() / total
        scores.append((mine.astype(float) / np.sqrt(1 - share)) @ rest)
    scores = np.array(scores)
    variance = ((scores @ residuals) ** 2).sum() / total**2
    spread = scores @ np.diag(x) @ scores.T  # of residuals whose variance grows with x
    return variance, np.trace(spread) ** 2 / np.trace(spread @ spread)


@pytest.mark.parametrize("equal", [True, False])
def test_clustered_error_is_cr2_with_the_degrees_of_freedom_of_bell_and_mccaffrey(equal):
    rng = np.random.default_rng(2)
    documents = np.repeat(np.arange(40), 20) if equal else np.repeat(np.arange(60), rng.integers(5, 40, 60))
    x = rng.integers(1, 9, documents.size).astype(float) if not equal else np.ones(documents.size)
    y = x * (rng.normal(size=x.size) + rng.normal(size=60)[documents])
    ours = ratio_of_sums(y, x, clusters=documents)
    variance, df = cr2(y - ours.value * x, x, documents)
    assert (ours.se, ours.df) == pytest.approx((np.sqrt(variance), df))
    if equal:
        fit = sm.OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": documents, "df_correction": True}, use_t=True)
        assert (ours.se, ours.df) == pytest.approx((fit.bse[0], 39))


def test_a_document_with_half_of_the_tokens_is_refused_and_said():
    words = np.r_[61_000.0, np.full(61, 1_000.0)]
    found = paired_ratio_difference(words, words + np.random.default_rng(0).normal(size=62), words)
    assert found.se is None
    assert found.method == "too few (62 independent units worth 3.9)"
    assert (found.largest, found.effective) == pytest.approx((0.5, 3.94), abs=0.01)


def test_unequal_documents_are_worth_fewer():
    words = np.random.default_rng(3).integers(500, 8_000, 62).astype(float)
    found = ratio_of_sums(words * 3, words)
    assert found.units == 62
    assert found.effective == pytest.approx(words.sum() ** 2 / (words**2).sum())
    assert found.df < 61


def test_losses_that_few_documents_carry_have_a_longer_arm_on_their_side():
    rng = np.random.default_rng(5)
    loss = np.exp(rng.normal(0, 1.2, 62))
    found = paired_difference(np.zeros(62), loss)
    assert found.high - found.value > 1.3 * (found.value - found.low)
    plain = at_level(replace(found, resampled=None), 0.95)
    assert found.low <= plain.low
    assert found.high > plain.high
    # The same evidence at another level, and of the other sign.
    back = paired_difference(loss, np.zeros(62))
    assert at_level(back, 0.9).low == pytest.approx(-at_level(found, 0.9).high)


def test_a_small_design_effect_makes_no_exact_test_out_of_flips_that_are_not_there():
    base, cand = np.zeros(4_000), np.zeros(4_000)
    cand[::40] = 1
    strata = np.repeat(np.arange(100), 40)
    assert paired_difference(base, cand, strata=strata).p == pytest.approx(paired_difference(base, cand).p)


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
