"""From logits through 16 bits to distances: against float64 arithmetic on the whole distributions."""

import numpy as np
import pytest
import torch

from sage_eval.measure.logits.reduce import distances, join
from sage_eval.measure.logits.tap import BEYOND, NATS, STEP, reduce, row_type
from sage_eval.statistics.divergence import divergence

N, VOCABULARY = 12, 3000
TARGETS = list(range(N))


def logits(seed=0, spread=3.0):
    return torch.randn(N, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def rows(values):
    fields = reduce(values, TARGETS)
    found = np.zeros(len(values), row_type(values.shape[1]))
    found["place"] = range(len(values))
    for name, array in fields.items():
        found[name] = array
    return found


BASE = logits()
CAND = BASE + 0.05 * logits(1, 1.0)


def exact(base=BASE, cand=CAND):
    p, q = (torch.log_softmax(x.double(), -1).numpy() for x in (base, cand))
    return p, q


def test_codes_are_half_a_step_off_at_most_and_say_what_is_beyond():
    p, _ = exact()
    found = rows(BASE)
    kept = found["codes"] < BEYOND
    assert (kept == (p >= -NATS)).all()
    assert np.abs(-STEP * found["codes"] - p)[kept].max() <= STEP / 2 + 1e-6
    np.testing.assert_allclose(found["tail"], np.where(kept, 0, np.exp(p)).sum(1), rtol=1e-4)
    assert (found["top"] == p.argmax(1)).all()
    np.testing.assert_allclose(found["true"], p[range(N), TARGETS], atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 3.0, 6.0], ids=["flat", "usual", "peaked"])
def test_the_divergence_is_that_of_the_whole_distributions(spread):
    base = logits(spread=spread)
    cand = base + 0.05 * logits(1, 1.0)
    p, q = exact(base, cand)
    found = distances(rows(base), rows(cand))
    truth = divergence(p, q)
    np.testing.assert_allclose(found.kl, truth.kl, rtol=0.02, atol=1e-8)
    assert (found.divergence.same_top == truth.same_top).all()
    assert found.merged.max() <= VOCABULARY * np.exp(-NATS)


def test_a_top_k_list_bounds_it_from_below():
    p, q = exact()
    found = distances(rows(BASE), rows(CAND)).kl
    for k in (1, 20, 500):
        ids = [np.argsort(-x, axis=1)[:, :k] for x in (p, q)]
        lists = [np.take_along_axis(x, i, axis=1) for x, i in zip((p, q), ids, strict=True)]
        # The tolerance is the rounding to 16 bits, a thousandth of these distances.
        assert (divergence(*lists, *ids).kl <= found * 1.01 + 1e-8).all(), k


def test_the_same_logits_are_nothing_apart():
    found = distances(rows(BASE), rows(BASE.clone()))
    assert (found.kl == 0).all()
    assert (found.largest == 0).all()
    assert found.divergence.same_top.all()


def test_an_id_that_only_one_arm_lost_counts_with_its_mass():
    base = torch.zeros(1, 4)
    base[0, 0] = 10.0
    cand = base.clone()
    cand[0, 3] = -10.0  # beyond 16 nats there, 10 nats away here
    p, q = exact(base, cand)
    fields = [reduce(x, [0]) for x in (base, cand)]
    pair = [np.zeros(1, row_type(4)) for _ in fields]
    for one, values in zip(pair, fields, strict=True):
        for name, array in values.items():
            one[name] = array
    found = distances(*pair)
    np.testing.assert_allclose(found.kl, divergence(p, q).kl, rtol=1e-3)
    np.testing.assert_allclose(found.merged, np.exp(p[:, 3]), rtol=1e-3)
    np.testing.assert_allclose(found.largest, NATS - -p[:, 3], atol=STEP)


def test_the_largest_difference_is_that_of_the_ids_within_sixteen_nats():
    base = logits(spread=1.0)  # all within 16 nats
    cand = base + 0.05 * logits(1, 1.0)
    p, q = exact(base, cand)
    np.testing.assert_allclose(distances(rows(base), rows(cand)).largest, np.abs(p - q).max(1), atol=2 * STEP)


def test_bf16_logits_are_read_as_what_they_are():
    half = BASE.bfloat16()
    assert (rows(half)["codes"] == rows(half.float())["codes"]).all()


def test_nan_and_other_places_are_refused():
    broken = BASE.clone()
    broken[3, 17] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        distances(rows(BASE), rows(broken))
    moved = rows(BASE)
    moved["place"] += 1
    with pytest.raises(ValueError, match="positions"):
        distances(rows(BASE), moved)


def test_joined_parts_are_the_whole():
    base, cand = rows(BASE), rows(CAND)
    whole = distances(base, cand)
    parts = join([distances(base[:5], cand[:5]), distances(base[5:], cand[5:])])
    assert (parts.kl == whole.kl).all()
    assert (parts.tops == whole.tops).all()
