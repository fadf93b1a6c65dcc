"""Looks at a part of the data: boundaries against published ones, and errors counted over all looks."""

import numpy as np
import pytest

from sage_eval.statistics.equivalence import at_look, equivalence, p_above
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import paired_difference
from sage_eval.statistics.sequential import LOOKS, boundaries, nominal, overall


def test_boundaries_are_lan_and_demets():
    """Four equal looks at a one-sided 2.5 %, spent as O'Brien and Fleming's: Lan and DeMets' own table."""
    assert boundaries((0.25, 0.5, 0.75, 1.0), 0.025) == pytest.approx([4.333, 2.963, 2.359, 2.014], abs=5e-4)


def test_a_single_look_at_everything_is_the_ordinary_test():
    assert boundaries((1.0,), 0.05) == pytest.approx([1.645], abs=1e-3)
    found = paired_difference(np.zeros(50), np.arange(50.0))
    assert at_look(found, (1.0,)) == found


def test_the_repeated_p_value_undoes_the_nominal_level():
    for shares in (LOOKS, LOOKS[:2], (0.5,)):
        for alpha in (1e-6, 0.01, 0.05, 0.2):
            assert overall(nominal(alpha, shares), shares) == pytest.approx(alpha, rel=1e-6)


def test_the_error_over_all_looks_is_what_was_allowed():
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(100_000, len(LOOKS))) * np.sqrt(np.diff(LOOKS, prepend=0))
    z = steps.cumsum(axis=1) / np.sqrt(LOOKS)
    assert (z > boundaries(LOOKS, 0.05)).any(axis=1).mean() == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize("binary", [False, True])
def test_an_early_interval_is_wider_and_its_tests_agree_with_it(binary):
    rng = np.random.default_rng(1)
    base, cand = rng.normal(size=(2, 200)) if not binary else (rng.random((2, 200)) < 0.5).astype(float)
    plain = paired_difference(base, cand)
    early, late = at_look(plain, (0.25,)), at_look(plain, LOOKS)
    assert early.low < late.low < plain.low < plain.high < late.high < early.high
    assert early.p >= late.p >= plain.p
    tost = equivalence(late, 0.2)
    assert tost.equivalent == (tost.interval.low > -0.2 and tost.interval.high < 0.2)
    assert p_above(late, late.low) == pytest.approx(0.025, rel=0.02)


def test_what_has_no_interval_gets_none_at_a_look():
    few = Estimate(0.1, None, None, None, 7, "too few (7 independent units)")
    assert at_look(few, (0.1,)) == few
