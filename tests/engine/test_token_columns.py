"""The hook on SGLang's log-probabilities of chosen ids, where SGLang needs it: the same answers, from one copy."""

import functools
import inspect

import pytest
import torch
from sglang.srt.layers import logprob_processor

from sage_eval.engine.token_columns import Columns, fetch_once
from sage_eval.errors import PrerequisiteError
from sage_eval.seams import COLUMNS, one_by_one

needed = pytest.mark.skipif(not one_by_one(), reason="this SGLang fetches a request's rows at once by itself")


@pytest.fixture
def original():
    """SGLang's own function, though another test of this process may have loaded the plugins, and so the hook."""
    return inspect.unwrap(logprob_processor.get_token_ids_logprobs_chunk)


CASES = {
    "one request": ([[3]], [7], 0),
    "several, one of them without ids": ([[3, 5], None, [1]], [2, 3, 2], 0),
    "one that goes on in the next chunk": ([[0, 6], [2]], [4, 9], 0),
    "one that began in the last chunk": ([[4], [2, 3]], [5, 4], 2),
    "nothing scored": ([[4], [2]], [0, 7], 0),
    "no ids at all": ([None], [7], 0),
}


@needed
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("raw", [False, True][: COLUMNS.form() + 1])  # the first form knows no logits
def test_the_answers_are_those_of_sglang(case, raw, original):
    wanted, lengths, split = CASES[case]
    logits = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    peak = logits.max(-1).values
    normaliser = {"log_normalizer": (peak, logits.logsumexp(-1) - peak)} if raw else {}
    results = []
    for function in (original, functools.partial(fetch_once, original)):
        # What began in the last chunk has its entry already.
        values, ids = ([[[0.0]]], [[[0]]]) if split else ([], [])
        left = function(logits if raw else logits.log_softmax(-1), wanted, lengths, values, ids, split, **normaliser)
        results.append((left, values, ids))
    assert results[0] == results[1]


@needed
def test_the_device_is_asked_once(monkeypatch, original):
    asked = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: asked.append(self.shape) or tolist(self))
    fetch_once(original, torch.zeros(50, 8), [[1, 2], [3]], [30, 20], [], [], 0)
    assert asked == [(50, 3)]


def test_another_way_of_reading_is_an_error_with_sglangs_version():
    """Several rows at once, as later versions read them: once a wrong shape without a word."""
    with pytest.raises(PrerequisiteError, match=r"SGLang [\d.]+ reads log-probabilities"):
        Columns(torch.zeros(4, 8), [1])[0:2, [1]]
