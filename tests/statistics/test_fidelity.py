"""The fidelity table against llama.cpp's formulas, and with documents counted instead of tokens."""

import numpy as np
import pytest
from scipy.special import log_softmax

from sage_eval.statistics.divergence import divergence
from sage_eval.statistics.fidelity import (
    DELTA_P_PERCENTILES,
    KLD_PERCENTILES,
    fidelity,
    percentiles,
    root_mean_square,
)


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(2_000, 50))
    base = log_softmax(logits, axis=1)
    cand = log_softmax(logits + 0.2 * rng.normal(size=logits.shape), axis=1)
    true = rng.integers(0, 50, 2_000), np.arange(2_000)
    return base, cand, base[true[1], true[0]], cand[true[1], true[0]]


def summary(run, documents):
    base, cand, base_true, cand_true = run
    return fidelity(divergence(base, cand), base_true, cand_true, documents)


def llama_se(x):
    """llama.cpp's standard error of a mean: √((E[x²] − E[x]²)/(n − 1))."""
    return np.sqrt((np.mean(x**2) - np.mean(x) ** 2) / (x.size - 1))


def test_with_every_token_a_document_the_errors_are_llama_cpps(run):
    base, cand, base_true, cand_true = run
    ours = summary(run, np.arange(2_000))
    kl, delta_p = divergence(base, cand).kl, np.exp(cand_true) - np.exp(base_true)
    rms = np.sqrt(np.mean(delta_p**2))
    assert (ours.kld.value, ours.kld.se) == pytest.approx((kl.mean(), llama_se(kl)))
    assert (ours.delta_p.value, ours.delta_p.se) == pytest.approx((delta_p.mean(), llama_se(delta_p)))
    assert ours.delta_p_rms.value == pytest.approx(rms)
    assert ours.delta_p_rms.se == pytest.approx(0.5 / rms * llama_se(delta_p**2))
    same = np.mean(base.argmax(axis=1) == cand.argmax(axis=1))
    assert (ours.same_top.value, ours.same_top.se) == pytest.approx((same, np.sqrt(same * (1 - same) / 1_999)))


def test_log_perplexity_error_has_the_covariance_term(run):
    *_, base_true, cand_true = run
    ours = summary(run, np.arange(2_000)).log_perplexity
    covariance = np.cov(-cand_true, -base_true) / 2_000
    assert ours.value == pytest.approx(base_true.mean() - cand_true.mean())
    assert ours.se == pytest.approx(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))


def test_perplexity_ratio_is_the_exponential(run):
    ours = summary(run, np.arange(2_000) // 20)
    log, ratio = ours.log_perplexity, ours.perplexity_ratio
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(tuple(np.exp([log.value, log.low, log.high])))
    assert ratio.se == pytest.approx(ratio.value * log.se)


def test_percentiles_are_numpys_at_llama_cpps_lines(run):
    base, cand, base_true, cand_true = run
    ours = summary(run, np.arange(2_000))
    kl, delta_p = divergence(base, cand).kl, np.exp(cand_true) - np.exp(base_true)
    for table, values, lines in (
        (ours.kld_percentiles, kl, KLD_PERCENTILES),
        (ours.delta_p_percentiles, delta_p, DELTA_P_PERCENTILES),
    ):
        assert [table[q].value for q in lines] == pytest.approx(np.percentile(values, lines).tolist())


def test_correlated_tokens_widen_everything():
    rng = np.random.default_rng(1)
    documents = np.repeat(np.arange(50), 100)
    x = rng.exponential(size=50)[documents] + 0.1 * rng.exponential(size=5_000)
    tokens, clustered = (percentiles(x, (50.0, 90.0), labels) for labels in (None, documents))
    assert all(clustered[q].se > 2 * tokens[q].se for q in (50.0, 90.0))
    assert root_mean_square(x, documents).se > 2 * root_mean_square(x).se


def test_the_ends_of_the_sample_have_no_interval():
    ours = percentiles(np.arange(200.0), (0.0, 0.1, 50.0, 100.0))
    assert [ours[q].se is None for q in ours] == [True, True, False, True]
    assert ours[100.0].method == "no interval at the edge of the sample"


def test_few_documents_give_values_without_errors(run):
    ours = summary(run, np.arange(2_000) // 100)
    assert ours.documents == 20
    estimates = (ours.kld, ours.delta_p_rms, ours.same_top, ours.perplexity_ratio, ours.kld_percentiles[50.0])
    assert all(e.se is None and e.method.startswith("too few (20") for e in estimates)


def test_identical_arms_differ_by_exactly_zero(run):
    base, _, base_true, _ = run
    ours = fidelity(divergence(base, base), base_true, base_true, np.arange(2_000) // 20)
    assert (ours.kld.value, ours.delta_p_rms.value, ours.log_perplexity.value) == (0, 0, 0)
    assert (ours.same_top.value, ours.perplexity_ratio.value) == (1, 1)
    assert ours.kld_percentiles[100.0].value == 0


def test_the_note_tells_a_bound_from_an_exact_value(run):
    base, cand, base_true, cand_true = run
    ids = [np.argsort(-x, axis=1)[:, :10] for x in (base, cand)]
    lists = [np.take_along_axis(x, i, axis=1) for x, i in zip((base, cand), ids, strict=True)]
    bound = fidelity(divergence(*lists, *ids), base_true, cand_true, np.arange(2_000))
    exact = summary(run, np.arange(2_000))
    assert bound.kld.value < exact.kld.value
    assert bound.note.startswith("lower bound from top-k lists: ids in both lists hold")
    assert (exact.note, exact.common_mass.value) == ("exact", 1)


def test_misaligned_columns_are_refused(run):
    base, cand, base_true, cand_true = run
    with pytest.raises(ValueError, match="not paired"):
        fidelity(divergence(base, cand), base_true[:-1], cand_true[:-1], np.arange(1_999))
