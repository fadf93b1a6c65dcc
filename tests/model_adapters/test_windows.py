import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters._windows import Window
from sage_eval.errors import UsageError


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), max_size=8))
def test_scored_tokens_stay_whole_and_the_input_fits(length, sizes):
    pairs = [(list(range(context)), list(range(100, 100 + tail))) for context, tail in sizes if tail <= length]
    for (context, tail), request in zip(pairs, Window(length).fit_scores(pairs), strict=True):
        assert list(request.continuation) == tail
        assert request.context and context[-len(request.context) :] == list(request.context)
        prompt = len(request.context) + len(tail) - 1
        assert prompt == min(length, len(context) + len(tail) - 1), "no more is cut than must be"


def test_what_was_cut_is_counted_and_said(caplog):
    window = Window(4)
    with caplog.at_level(logging.WARNING):
        window.fit_scores([([1] * 4, [2]), ([1] * 5, [2]), ([1] * 9, [2])])
    assert window.truncated == 2
    assert "2 of 3 contexts exceed 4 tokens and lost their left end (longest: 9)" in caplog.text


@pytest.mark.parametrize(
    ("context", "tail", "reason"),
    [
        ([1], [], "no token of its own: .*merges it"),
        ([1], [1] * 5, "exceeds the window of 4"),
        ([], [1], "white space alone"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_refused_by_its_name(context, tail, reason):
    with pytest.raises(UsageError, match=f"item 1: .*{reason}"):
        Window(4).fit_scores([([1], [2]), (context, tail)], "item {}".format)


def test_an_empty_prompt_is_refused_by_its_name():
    with pytest.raises(UsageError, match="item 1: the prompt is empty"):
        Window(4).fit_prompts([([1], 1), ([], 1)], "item {}".format)


def test_a_long_prompt_is_refused_with_its_excess():
    with pytest.raises(UsageError, match=r"1 of 2 prompts .*exceed 10 tokens \(by up to 3\)"):
        Window(10).fit_prompts([([1] * 8, 2), ([1] * 8, 5)])


def test_a_long_prompt_loses_its_left_end_on_request():
    window = Window(10, "left")
    assert window.fit_prompts([(list(range(8)), 2), (list(range(8)), 5)]) == [tuple(range(8)), (3, 4, 5, 6, 7)]
    assert window.truncated == 1


def test_an_answer_that_fills_the_window_is_refused():
    with pytest.raises(UsageError, match="max_gen_toks=10"):
        Window(10, "left").fit_prompts([([1], 10)])


def test_an_unknown_truncation_is_refused():
    with pytest.raises(UsageError, match="truncation='right'"):
        Window(10, "right")
