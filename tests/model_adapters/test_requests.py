"""What tasks ask for in real use: each is answered as lm-eval's `hf` does, or refused by item; the engine lives on."""

import logging
from unittest.mock import MagicMock

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from model_adapters import sglang_sage
from model_adapters._known import claim
from model_adapters.sglang_sage import SGLangSageLM
from sage_eval.engine.requests import GenerateRequest, Generation
from sage_eval.engine.tokens import Tokens
from sage_eval.errors import UsageError
from tests.engine.test_tokens import tokenizer

QUESTION = ("The whale is", " a very large animal")


def item(kind, *args, task="some_task", doc=7):
    return Instance(kind, {}, args, 0, metadata=(task, doc, 1))


@pytest.mark.engine
def test_stops_in_a_tuple_are_stops(lm):
    tuples = item("generate_until", "The license shall", {"until": ("\n", "."), "max_gen_toks": 8})
    lists = item("generate_until", "The license shall", {"until": ["\n", "."], "max_gen_toks": 8})
    assert lm.generate_until([tuples]) == lm.generate_until([lists])


@pytest.mark.engine
@pytest.mark.parametrize(
    "sampling", [{"stop": ("a",), "max_new_tokens": 2}, {"temperature": "0", "max_new_tokens": 2}], ids=str
)
def test_a_request_that_would_kill_the_scheduler_is_not_sent(lm, sampling):
    with pytest.raises(UsageError, match="request 0"):
        lm.arm.generate([GenerateRequest((1, 2), sampling)])
    with pytest.raises(UsageError, match="no token 8192"):
        lm.arm.generate([GenerateRequest((1, 8192), {"max_new_tokens": 2, "temperature": 0.0})])
    assert lm.loglikelihood([item("loglikelihood", *QUESTION)])


@pytest.mark.engine
@pytest.mark.parametrize(
    ("call", "args", "words"),
    [
        ("loglikelihood", ("  ", "word"), "white space"),
        ("loglikelihood", ("The whale", ""), "no token of its own"),
        ("generate_until", ("", {"until": []}), "the prompt is empty"),
        ("generate_until", ("The whale", {"until": [3]}), "until="),
    ],
)
def test_what_cannot_be_answered_is_refused_with_task_and_item(lm, call, args, words):
    with pytest.raises(UsageError, match=f"some_task item 7: .*{words}"):
        getattr(lm, call)([item(call, *args)])


@pytest.mark.engine
def test_an_empty_text_has_a_log_likelihood_of_zero_and_is_kept(lm, monkeypatch):
    kept = []
    monkeypatch.setattr(lm.cache_hook, "add_partial", lambda *entry: kept.append(entry))
    assert lm.loglikelihood_rolling([item("loglikelihood_rolling", "")]) == [0.0]
    assert kept == [("loglikelihood_rolling", ("",), 0.0)]


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_the_bar_counts_answers_as_they_come(lm, recorder, monkeypatch, kind):
    bars, seen = [], []
    monkeypatch.setattr(sglang_sage, "tqdm", lambda **_: bars.append(MagicMock()) or bars[-1])
    recorder.spoil = lambda _, reply: seen.append(bars[-1].__enter__().update.call_count) or reply
    more = {"loglikelihood": (" a word",), "loglikelihood_rolling": (), "generate_until": ({"max_gen_toks": 2},)}
    getattr(lm, kind)([item(kind, f"{n} whales are", *more[kind]) for n in range(5)])
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.engine
def test_lm_evals_cache_is_taken_up_by_the_same_arm_and_by_no_other(lm, tmp_path, monkeypatch):
    path = str(tmp_path / "cache.db")
    batch = [item("loglikelihood", *QUESTION)]
    first = CachingLM(lm, path).loglikelihood(batch)
    monkeypatch.setattr(lm.arm, "score", None)  # whoever asks the engine now fails
    assert CachingLM(lm, path).loglikelihood(batch) == first
    monkeypatch.setattr(lm.arm, "backend", "another")
    with pytest.raises(UsageError, match=r"use_cache: .*cache\.db holds answers of another"):
        CachingLM(lm, path)


def test_a_cache_that_another_model_filled_is_not_taken(tmp_path):
    from sqlitedict import SqliteDict

    class Hook:
        dbdict = SqliteDict(str(tmp_path / "theirs.db"), autocommit=True)

    claim(Hook, "ours")
    claim(Hook, "ours")
    with pytest.raises(UsageError, match="another"):
        claim(Hook, "theirs")
    Hook.dbdict.clear()
    Hook.dbdict["a request's hash"] = -1.0
    with pytest.raises(UsageError, match="another"):
        claim(Hook, "ours")


def without_engine():
    lm = SGLangSageLM.__new__(SGLangSageLM)
    lm.tokens = Tokens(tokenizer())
    lm.tokenizer = lm.tokens.tokenizer
    return lm


def test_bos_is_predicted_as_hf_does_in_lm_evals_tasks_and_not_in_ours():
    """The tokenizer puts BOS first by itself: it is the first word's context, and no part of the text."""
    lm = without_engine()
    theirs = lm._rolling_tokens(item("loglikelihood_rolling", "the whale", task="wikitext"))
    ours = lm._rolling_tokens(item("loglikelihood_rolling", "the whale", task="sage_wikitext"))
    assert (theirs, ours) == ([0, 2, 3], [2, 3])


@pytest.mark.parametrize(
    ("tokens", "text"), [((2, 5, 3), "large whale"), ((2, 1, 3), "whale"), ((5, 1, 2, 1, 3, 4), "whale is")]
)
def test_what_comes_before_the_end_of_thinking_is_no_answer(tokens, text):
    lm = without_engine()
    lm._think_end = 1
    assert lm._answer(Generation(tokens, "stop"), []) == (text if 1 in tokens else f"the {text}")


def test_a_text_that_never_ends_thinking_is_stripped_as_hf_does(monkeypatch):
    lm = without_engine()
    lm._think_end = 1
    monkeypatch.setattr(lm.tokens, "decode", lambda *_, **__: "  the whale ")
    assert lm._answer(Generation((2, 3), "length"), []) == "the whale "


def test_a_window_beyond_the_models_own_is_a_warning(caplog):
    from types import SimpleNamespace

    from model_adapters._known import window_length
    from sage_eval.engine.options import ArmOptions

    tokenizer = without_engine().tokenizer
    config = SimpleNamespace(max_position_embeddings=64)
    with caplog.at_level(logging.WARNING):
        assert window_length(ArmOptions.from_arguments("model", max_length=64), config, tokenizer) == 64
        assert not caplog.text
        assert window_length(ArmOptions.from_arguments("model", max_length=65), config, tokenizer) == 65
    assert "beyond the model's window of 64" in caplog.text
