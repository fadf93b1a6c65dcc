"""The bootstrap against formulas, and its refusals."""

import numpy as np
import pytest

from sage_eval.statistics import resampling
from sage_eval.statistics.paired import mean, ratio_of_sums
from sage_eval.statistics.resampling import block_bootstrap, bootstrap

X = np.random.default_rng(0).gamma(3.0, size=150)


def test_bootstrap_of_a_mean_is_the_formula():
    ours, formula = bootstrap(np.mean, X), mean(X)
    assert ours.se == pytest.approx(formula.se, rel=0.05)
    assert (ours.low, ours.high) == pytest.approx((formula.low, formula.high), abs=0.3 * formula.se)
    assert ours.method == "bootstrap BCa"


def test_columns_are_resampled_together():
    words = np.random.default_rng(1).integers(10, 90, 150).astype(float)
    ours = bootstrap(lambda y, x: y.sum() / x.sum(), X * words, words)
    assert ours.se == pytest.approx(ratio_of_sums(X * words, words).se, rel=0.08)


def test_clusters_are_drawn_whole():
    documents = np.repeat(np.arange(50), 3)
    x = np.random.default_rng(2).normal(size=50)[documents]
    ours = bootstrap(np.mean, x, clusters=documents)
    assert ours.se == pytest.approx(mean(x, clusters=documents).se, rel=0.06)
    assert (ours.units, ours.method) == (50, "bootstrap BCa, clustered")


def test_no_document_is_torn_apart():
    documents = np.random.default_rng(3).permutation(np.repeat(np.arange(50), 3))
    sizes = bootstrap(
        lambda document: len(document) + np.bincount(document.astype(int)).max() % 3,
        documents * 1.0,
        clusters=documents,
        resamples=100,
    )
    assert (sizes.value, sizes.low, sizes.high) == (150, 150, 150)


def test_many_units_use_percentiles(monkeypatch):
    monkeypatch.setattr(resampling, "BCA_LIMIT", 100)
    assert bootstrap(np.mean, X, resamples=200).method == "bootstrap percentile"


def test_a_seed_repeats_the_interval():
    assert bootstrap(np.median, X, resamples=200, seed=3) == bootstrap(np.median, X, resamples=200, seed=3)


def test_a_statistic_that_never_moves_has_no_width():
    ours = bootstrap(np.median, np.ones(40), resamples=200)
    assert (ours.value, ours.se, ours.low, ours.high) == (1, 0, 1, 1)


def test_too_few_units_get_no_interval():
    assert bootstrap(np.mean, X[:29]).method.startswith("too few")


@pytest.mark.filterwarnings("ignore:The BCa")
def test_a_statistic_that_fails_is_told():
    with pytest.raises(ValueError, match="NaN on some resamples"), np.errstate(all="ignore"):
        bootstrap(lambda x: x.sum() / (x.max() - x.min() if 0 in x else np.nan), np.arange(40.0), resamples=100)


def test_neighbours_that_resemble_each_other_widen_the_interval():
    """The mean of an autoregressive series, whose error is sqrt((1 + r) / (1 - r) / n) standard deviations."""
    rng, r, n = np.random.default_rng(4), 0.7, 20_000
    noise, x = rng.standard_normal(n), np.zeros(n)
    for i in range(1, n):
        x[i] = r * x[i - 1] + np.sqrt(1 - r * r) * noise[i]
    found = block_bootstrap(np.mean, x, resamples=300)
    assert found.se == pytest.approx(np.sqrt((1 + r) / (1 - r) / n), rel=0.35)  # of ten blocks only
    assert bootstrap(np.mean, x[:2000], resamples=300).se < 0.6 * block_bootstrap(np.mean, x[:2000], resamples=300).se


def test_blocks_join_the_end_to_the_beginning_and_keep_columns_together():
    x, joined = np.arange(40.0), []

    def step(a, b):
        assert (a == b).all()
        assert ((np.diff(a)[np.arange(39) % 4 != 3]) % 40 == 1).all()  # blocks of four, each of neighbours
        joined.append(bool(((a[:-1] == 39) & (a[1:] == 0)).any()))
        return a.mean()

    found = block_bootstrap(step, x, x, resamples=50)
    assert (found.method, found.n, found.units) == ("bootstrap in blocks of 4", 40, 10)
    assert any(joined[1:])


def test_too_short_a_series_gets_no_interval():
    assert block_bootstrap(np.mean, X[:29]).method.startswith("too few")


def test_a_statistic_that_fails_on_some_blocks_is_told():
    with pytest.raises(ValueError, match="NaN on some resamples"):
        block_bootstrap(lambda x: 1.0 if 0 in x else np.nan, np.arange(40.0), resamples=100)
