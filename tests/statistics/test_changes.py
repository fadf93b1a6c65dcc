"""Changed answers, and which of them a rounding error explains."""

import pytest

from sage_eval.statistics.changes import NEAR_TIE, answer_changes


def test_changes_are_split_by_the_baselines_margin():
    ours = answer_changes(
        base_answer=["A", "A", "B", "C", "D"],
        cand_answer=["A", "B", "C", "D", "A"],
        base_correct=[1, 1, 0, 0, 0],
        cand_correct=[1, 0, 0, 1, 0],
        base_margin=[3.0, 0.01, 0.02, 2.0, 4.0],
    )
    assert (ours.n, ours.near_tie) == (5, NEAR_TIE)
    assert (ours.changed, ours.changed_near_tie) == (4, 2)
    assert (ours.flips.lost, ours.flips.gained) == (1, 1)
    assert (ours.flips_near_tie.lost, ours.flips_near_tie.gained, ours.flips_near_tie.n) == (1, 0, 2)
    assert (ours.flips_real.lost, ours.flips_real.gained, ours.flips_real.n) == (0, 1, 3)


@pytest.mark.parametrize(("near_tie", "near"), [(0.5, 0), (0.500001, 1)])
def test_the_margin_itself_is_no_near_tie(near_tie, near):
    ours = answer_changes([1], [2], [1], [0], [0.5], near_tie)
    assert (ours.flips_near_tie.n, ours.flips_real.n) == (near, 1 - near)


def test_negative_margin_is_refused():
    with pytest.raises(ValueError, match="cannot be negative"):
        answer_changes([1], [1], [1], [1], [-0.1])


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="base_margin has 1 items"):
        answer_changes([1, 2], [1, 2], [1, 0], [1, 0], [0.1])
