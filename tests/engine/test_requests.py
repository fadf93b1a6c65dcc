import math

import pytest

from sage_eval.engine.requests import ScoreRequest, read_score
from sage_eval.errors import EngineError

REQUEST = ScoreRequest((1, 2), (3, 4))


def reply(*, inside=-0.5, after=-1.0, best_inside=-0.5, best_after=-1.0):
    """A reply in SGLang's form to REQUEST: (logprob, token, text) triples, the first input entry empty."""
    return {
        "meta_info": {
            "input_token_logprobs": [(None, 2, None), (inside, 3, None)],
            "input_top_logprobs": [None, [(best_inside, 3, None)]],
            "output_token_ids_logprobs": [[(after, 4, None)]],
            "output_top_logprobs": [[(best_after, 4, None)]],
        }
    }


def test_the_score_is_the_sum_over_the_continuation():
    score = read_score(REQUEST, reply(), greedy=True)
    assert score.logprobs == (-0.5, -1.0)
    assert score.total == -1.5


@pytest.mark.parametrize(
    ("best_inside", "best_after", "greedy"),
    [(-0.5, -1.0, True), (-0.4, -1.0, False), (-0.5, -0.9, False)],
    ids=["both best", "first is not", "last is not"],
)
def test_greedy_needs_every_token_to_be_the_most_probable(best_inside, best_after, greedy):
    score = read_score(REQUEST, reply(best_inside=best_inside, best_after=best_after), greedy=True)
    assert score.greedy is greedy


def test_a_tie_with_another_token_counts_as_greedy():
    tied = reply()
    tied["meta_info"]["output_top_logprobs"] = [[(-1.0, 77, None)]]
    assert read_score(REQUEST, tied, greedy=True).greedy is True


@pytest.mark.parametrize("value", [math.nan, -math.inf, None], ids=["nan", "inf", "missing"])
@pytest.mark.parametrize("place", ["inside", "after"])
def test_a_logprob_that_is_no_number_is_an_error(place, value):
    with pytest.raises(EngineError, match="NaN or missing"):
        read_score(REQUEST, reply(**{place: value}), greedy=True)


def test_nan_is_an_error_even_where_only_the_flag_depends_on_it():
    with pytest.raises(EngineError, match="NaN or missing"):
        read_score(REQUEST, reply(best_after=math.nan), greedy=True)


@pytest.mark.parametrize("key", ["input_token_logprobs", "output_token_ids_logprobs", "output_top_logprobs"])
def test_a_reply_without_logprobs_is_an_error(key):
    broken = reply()
    broken["meta_info"][key] = []
    with pytest.raises(EngineError, match="lacks logprobs"):
        read_score(REQUEST, broken, greedy=True)


def test_a_reply_to_fewer_positions_than_asked_is_an_error():
    broken = reply()
    broken["meta_info"]["input_token_logprobs"] = [(None, 3, None)]
    with pytest.raises(EngineError, match="lacks logprobs"):
        read_score(REQUEST, broken, greedy=False)
