"""KL divergence: exact from full vocabularies, a lower bound from top-k lists, the same cells for both arms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from sage_eval.statistics import divergence as module
from sage_eval.statistics.divergence import divergence
from tests.statistics import quick

VOCABULARY = 60


def arms(seed, n=50, noise=0.5, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(n, VOCABULARY))
    return log_softmax(logits, axis=1), log_softmax(logits + noise * rng.normal(size=logits.shape), axis=1)


def top(logprobs, k, dtype=np.float64):
    ids = np.argsort(-logprobs, axis=1)[:, :k].astype(np.int32)
    return np.take_along_axis(logprobs, ids, axis=1).astype(dtype), ids


def from_top(base, cand, k, dtype=np.float64):
    (p, i), (q, j) = top(base, k, dtype), top(cand, k, dtype)
    return divergence(p, q, i, j)


def true_kl(base, cand):
    return rel_entr(np.exp(base), np.exp(cand)).sum(axis=1)


def test_full_vocabulary_is_exact():
    base, cand = arms(0)
    result = divergence(base, cand)
    assert result.exact
    assert result.kl == pytest.approx(true_kl(base, cand), rel=1e-9)
    assert result.same_top.tolist() == (base.argmax(axis=1) == cand.argmax(axis=1)).tolist()


def test_ids_never_sampled_add_nothing():
    base, cand = arms(1)
    masked = np.full((50, 4), -np.inf)
    assert divergence(np.hstack([base, masked]), np.hstack([cand, masked])).kl == pytest.approx(true_kl(base, cand))


def test_mass_where_the_candidate_has_none_is_infinitely_far():
    base, cand = np.log([[0.5, 0.5]]), np.array([[0.0, -np.inf]])
    assert divergence(base, cand).kl.tolist() == [np.inf]


def test_small_example_by_hand():
    # ids 1 and 2 are common; the rest is 0.3 against 0.2, as id 0 and id 3 are in one list only
    base, cand = np.log([[0.4, 0.3, 0.2]]), np.log([[0.5, 0.3, 0.1]])
    result = divergence(base, cand, np.array([[1, 2, 0]]), np.array([[1, 2, 3]]))
    expected = 0.4 * np.log(0.4 / 0.5) + 0.3 * np.log(0.3 / 0.3) + 0.3 * np.log(0.3 / 0.2)
    assert result.kl == pytest.approx([expected])
    assert result.mass == pytest.approx([0.7])
    assert not result.exact


@quick
@given(st.integers(0, 1_000), st.integers(1, VOCABULARY - 1), st.floats(0.0, 3.0))
def test_top_k_is_a_lower_bound(seed, k, noise):
    base, cand = arms(seed, noise=noise)
    result = from_top(base, cand, k, np.float32)
    assert (result.kl >= 0).all()
    assert (result.kl <= true_kl(base, cand) + 1e-6).all()


def test_longer_lists_come_closer():
    base, cand = arms(3)
    means = [from_top(base, cand, k).kl.mean() for k in (2, 5, 20, 55)]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(true_kl(base, cand).mean(), rel=0.02)


def test_lists_of_the_whole_vocabulary_are_exact():
    base, cand = arms(4)
    assert from_top(base, cand, VOCABULARY).kl == pytest.approx(true_kl(base, cand), rel=1e-6)


@quick
@given(st.integers(0, 1_000), st.integers(1, 20))
def test_order_within_a_list_does_not_matter(seed, k):
    base, cand = arms(seed)
    (p, i), (q, j) = top(base, k), top(cand, k)
    order = np.random.default_rng(seed).permutation(k)
    shuffled, straight = divergence(p[:, order], q, i[:, order], j), divergence(p, q, i, j)
    assert shuffled.kl == pytest.approx(straight.kl, abs=1e-12)
    assert shuffled.same_top.tolist() == straight.same_top.tolist()


@pytest.mark.parametrize("k", [1, 5, None])
def test_an_arm_is_at_distance_zero_from_itself(k):
    base, _ = arms(5)
    result = divergence(base, base) if k is None else from_top(base, base, k, np.float32)
    assert result.kl.max() == 0
    assert result.same_top.all()


def test_lists_with_nothing_in_common_say_nothing():
    lists = np.log(np.full((1, 2), 0.4))
    result = divergence(lists, lists, np.array([[0, 1]]), np.array([[2, 3]]))
    assert (result.kl[0], result.mass[0], result.same_top[0]) == (0, 0, False)


def test_padding_is_no_common_id():
    base = np.array([[np.log(0.6), np.nan]])
    result = divergence(base, base + np.log(0.5), np.array([[7, -1]]), np.array([[7, -1]]))
    assert result.kl == pytest.approx([0.6 * np.log(2) + 0.4 * np.log(0.4 / 0.7)])
    assert result.mass == pytest.approx([0.6])


def test_rounding_dust_in_the_rest_does_not_blow_up():
    # lists that hold all the mass, but for float32 rounding on one side
    base, cand = np.log([[0.9, 0.1 - 1e-7]]), np.log([[0.9, 0.1 + 1e-7]])
    ids = np.array([[0, 1]])
    assert divergence(base, cand, ids, ids).kl[0] == pytest.approx(0, abs=1e-6)


def test_chunks_do_not_show(monkeypatch):
    base, cand = arms(6)
    whole = from_top(base, cand, 10)
    monkeypatch.setattr(module, "CHUNK_CELLS", 70)
    chunked = from_top(base, cand, 10)
    assert chunked.kl.tolist() == whole.kl.tolist()
    assert chunked.mass.tolist() == whole.mass.tolist()


LIST, IDS = np.log(np.full((2, 2), 0.3)), np.array([[0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LIST, LIST, IDS), "both arms"),
        ((LIST, LIST[:1]), "two non-empty"),
        ((LIST[0], LIST[0]), "two non-empty"),
        ((LIST, LIST[:, :1], IDS, IDS[:, :1]), "pad both arms"),
        ((LIST, LIST, IDS, IDS[:, :1]), "ids: want the shape"),
        ((LIST, LIST, IDS, np.zeros_like(IDS)), "same id twice"),
        ((LIST, np.zeros_like(IDS) - 0.5, np.zeros_like(IDS), IDS), "same id twice"),
        ((LIST * np.nan, LIST), "NaN"),
        ((LIST, LIST + 5), "positive"),
        ((LIST, LIST - np.inf, IDS, IDS), "infinite"),
    ],
)
def test_unusable_lists_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        divergence(*arguments)
