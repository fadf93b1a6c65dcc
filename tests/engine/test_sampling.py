"""What would kill SGLang's scheduler is refused before it is sent, by the item that asks for it."""

import pytest

from sage_eval.engine import sampling
from sage_eval.engine.planning import check_tokens
from sage_eval.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [{"stop": ("a",)}, {"stop": [("a",)]}, {"stop": "a"}, {"temperature": "0"}, {"max_new_tokens": 1.0}],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        sampling.check(wrong)


def test_what_sglang_takes_passes():
    sampling.check(
        {"temperature": 1, "top_p": 0.9, "stop": ["a"], "stop_token_ids": [3], "logit_bias": {"5": 1}, "regex": None}
    )


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([(1, 2), (1, 9)], "request 1: the model has no token 9; its vocabulary has 9"),
        ([(-1,)], "no token -1"),
        ([("a",)], "whole numbers"),
        ([(1.5,)], "whole numbers"),
        ([(1,), ()], "request 1: .*at least one token"),
    ],
)
def test_token_ids_that_the_model_does_not_have_are_refused(prompts, words):
    with pytest.raises(UsageError, match=words):
        check_tokens(prompts, 9)


def test_ids_are_not_limited_where_the_vocabulary_is_not_known():
    check_tokens([(1, 10**6)], None)
