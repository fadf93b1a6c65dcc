"""The hook on SGLang's log-probabilities of chosen ids: the same answers, from one copy."""

import inspect
import subprocess
import sys

import pytest
import torch
from sglang.srt.layers import logprob_processor

from sage_eval.engine.token_columns import fetch_once


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


@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_those_of_sglang(case, original):
    wanted, lengths, split = CASES[case]
    logprobs = torch.randn(7, 8, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    results = []
    for function in (original, lambda *args: fetch_once(original, *args)):
        # What began in the last chunk has its entry already.
        values, ids = ([[[0.0]]], [[[0]]]) if split else ([], [])
        left = function(logprobs, wanted, lengths, values, ids, split)
        results.append((left, values, ids))
    assert results[0] == results[1]


def test_the_device_is_asked_once(monkeypatch, original):
    asked = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: asked.append(self.shape) or tolist(self))
    fetch_once(original, torch.zeros(50, 8), [[1, 2], [3]], [30, 20], [], [], 0)
    assert asked == [(50, 3)]


def test_the_plugin_puts_it_around_sglangs_function():
    script = (
        "import inspect; from sglang.srt.plugins import load_plugins; load_plugins(); "
        "from sglang.srt.layers.logprob_processor import get_token_ids_logprobs_chunk as found; "
        "assert inspect.unwrap(found) is not found"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
