import pytest

from sage_eval.runs import ties
from sage_eval.runs.records import Sample
from sage_eval.statistics.changes import NEAR_TIE


def choice(*logprobs):
    return Sample(task="t", doc_id=0, prompt="p", metrics={"acc": 1.0}, logprobs=list(logprobs))


def test_the_limit_is_what_the_lead_moves_by_between_arms_that_should_be_equal():
    pairs = [(choice(-1.0, -2.0), choice(-1.0, -2.0 - i / 100)) for i in range(101)]
    assert ties.near_tie(pairs) == pytest.approx(0.99)


@pytest.mark.parametrize("pairs", [[], [(choice(-1.0, -2.0), choice(-1.0, -2.0))], [(choice(-1.0), choice(-2.0))]])
def test_without_such_a_change_the_stated_limit_holds(pairs):
    assert ties.near_tie(pairs) == NEAR_TIE


def test_a_flip_of_a_small_lead_is_a_near_tie():
    items = [(choice(-1.0, -1.1), choice(-1.1, -1.0)), (choice(-1.0, -3.0), choice(-3.0, -1.0))]
    found = ties.changes(items, [1.0, 1.0], [0.0, 0.0], 0.125)
    assert (found.flips.lost, found.flips_near_tie.lost, found.flips_real.lost, found.changed_near_tie) == (2, 1, 1, 1)
