import pytest

from sage_eval.compare import ties
from sage_eval.compare.ranking import chosen, lead, ranked
from sage_eval.statistics.changes import NEAR_TIE
from sage_eval.store.samples import Sample


def choice(*logprobs, **values):
    return Sample(task="t", doc_id=0, prompt="p", metrics={"acc": 1.0}, logprobs=list(logprobs), **values)


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


def test_acc_norm_ranks_nats_per_character_and_its_lead_is_what_one_log_probability_must_move():
    sample = choice(-1.0, -4.0, sizes={"acc_norm": [2, 16]})
    assert (chosen(sample, "acc"), lead(sample, "acc")) == (0, 3.0)
    assert (chosen(sample, "acc_norm"), lead(sample, "acc_norm")) == (1, 0.5)
    moved = choice(-0.49, -4.0, sizes={"acc_norm": [2, 16]})
    assert chosen(moved, "acc_norm") == 0


def test_mutual_information_ranks_what_the_question_adds():
    sample = choice(-1.0, -2.0, -0.5, -5.0).model_copy(update={"metrics": {"acc": 1.0, "acc_mutual_info": 0.0}})
    assert (chosen(sample, "acc"), chosen(sample, "acc_mutual_info")) == (0, 1)
    assert ranked(sample, "acc_mutual_info") == [-0.5, 3.0]


def test_a_metric_that_ranks_something_else_has_no_near_ties():
    items = [(choice(-1.0, -1.1, target=1), choice(-1.1, -1.0, target=1))] * 2
    assert ties.changes(items, [1.0, 1.0], [0.0, 0.0], 0.125) is None
    assert ties.changes(items, [0.0, 0.0], [1.0, 1.0], 0.125) is not None
