"""What lm-eval's own `sglang` model gets wrong. Each test runs on both models, on one real engine; theirs must fail."""

import math

import pytest

from sage_eval.errors import EngineError, UsageError

from .conftest import WINDOW, requests

pytestmark = [pytest.mark.engine, pytest.mark.slow]

QUESTION = "Which of these is a mammal that lives in the sea?\nA. whale\nB. cod\nC. crab\nD. gull\nAnswer:"
ANSWERS = [(QUESTION, f" {letter}") for letter in "ABCD"]


class Kept:
    """lm-eval's cache hook: keeps what a model reports while it works."""

    def __init__(self):
        self.entries = []

    def add_partial(self, kind, key, value):
        self.entries.append((kind, key, value))


def greedy(**kwargs):
    return {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False} | kwargs


def test_the_facade_serves_lm_evals_model(lm, stock):
    """The control: on an ordinary request both agree, so what fails below fails for its own reason."""
    batch = requests("loglikelihood", ("The whale is", " a very large animal"))
    ((theirs, _),), ((ours, _),) = stock.loglikelihood(batch), lm.loglikelihood(batch)
    assert theirs == pytest.approx(ours, abs=1e-3)
    batch = requests("generate_until", ("The license shall", greedy()))
    assert stock.generate_until(batch) == lm.generate_until(batch)


def test_windows_fit_what_the_engine_serves(model, prose):
    text = prose
    while len(model.tok_encode(text)) <= WINDOW + 16:
        text += prose
    tokens = model.tok_encode(text)[: WINDOW + 16]
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (model.tokenizer.decode(tokens),)))
    assert -10 * len(tokens) < total < -1 * len(tokens)


def test_one_prompt_a_question(model, recorder):
    model.loglikelihood(requests("loglikelihood", *ANSWERS))
    assert len(recorder.payloads) == 1


def test_logprobs_of_the_question_are_not_shipped(model, recorder):
    model.loglikelihood(requests("loglikelihood", ANSWERS[0]))
    (payload,) = recorder.payloads
    assert payload["logprob_start_len"] != 0


def test_the_context_is_tokenised_once(model, monkeypatch):
    encoded = []
    original = type(model.tokenizer)._encode_plus

    def counting(self, text, *args, **kwargs):
        encoded.extend(text if isinstance(text, list) else [text])
        return original(self, text, *args, **kwargs)

    monkeypatch.setattr(type(model.tokenizer), "_encode_plus", counting)
    context = QUESTION + " (the tokenisation test)"
    model.loglikelihood(requests("loglikelihood", *((context, answer) for _, answer in ANSWERS)))
    assert encoded.count(context) == 1


def test_finished_work_is_kept_when_a_later_request_fails(model, recorder, monkeypatch):
    def fail_third(count, reply):
        if count == 2:
            raise EngineError("scheduler died")
        return reply

    recorder.spoil = fail_third
    kept = Kept()
    monkeypatch.setattr(model, "cache_hook", kept)
    batch = requests("loglikelihood", *((f"{number} and {number} make", " two") for number in range(4)))
    with pytest.raises(EngineError):
        model.loglikelihood(batch)
    assert len(kept.entries) == 2


def test_a_stop_does_not_leak_into_another_request(model):
    """Theirs cuts every text of a batch at the stops of the batch's last request, the one with the shortest prompt."""
    short, long = "You may obtain a copy of the", "You may not obtain a copy of this file and the License"
    (whole,) = model.generate_until(requests("generate_until", (long, greedy())))
    letter = next(letter for letter in whole if letter.isalpha())

    cut, uncut = model.generate_until(
        requests("generate_until", (short, greedy(until=[letter])), (long, greedy(until=["\n\n"])))
    )

    assert uncut == whole
    assert letter not in cut


@pytest.mark.parametrize("name", ["max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_other_names_of_the_length_are_understood(model, name):
    (text,) = model.generate_until(requests("generate_until", ("The whale", {"until": [], name: 3})))
    assert len(model.tok_encode(text)) <= 4


def test_without_sampling_the_temperature_is_zero(model, recorder):
    model.generate_until(requests("generate_until", ("The whale", greedy(temperature=0.8))))
    assert recorder.payloads[0]["sampling_params"]["temperature"] == 0


def test_a_prompt_too_long_is_refused(model, prose):
    with pytest.raises(UsageError, match=r"1 of 2 prompts.*truncation=left"):
        model.generate_until(requests("generate_until", ("short", greedy()), (prose * 5, greedy())))


def test_nan_is_an_error(model, recorder):
    def spoil(_, reply):
        meta = reply["meta_info"]
        for key in ("input_token_logprobs", "output_token_ids_logprobs"):
            meta[key] = [
                [(math.nan, 1, None)] if isinstance(e, list) else (math.nan, 1, None) for e in meta.get(key) or []
            ]
        return reply

    recorder.spoil = spoil
    with pytest.raises(EngineError):
        model.loglikelihood(requests("loglikelihood", ("The whale is", " large")))


def test_an_answer_longer_than_the_window_is_refused(model, prose):
    with pytest.raises(UsageError, match="exceeds the window"):
        model.loglikelihood(requests("loglikelihood", ("The license:", prose * 5)))


def test_tokenizer_and_template_have_names(model):
    assert model.tokenizer_name
    assert model.tok_decode(model.tok_encode("The whale")) == "The whale"


def test_the_chat_template_is_reported(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ messages[0].content }}")
    assert model.chat_template(True) == "{{ messages[0].content }}"


def test_a_template_without_system_role_gets_none(model, monkeypatch):
    refusal = "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = "{% for m in messages %}" + refusal + "[{{ m.content }}]{% endfor %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert model.apply_chat_template(chat) == "[hello]"


def test_results_name_backend_and_coverage(model):
    info = model.get_model_info()
    assert info["attention_backend"] == "torch_native"
    assert (info["model_dtype"], info["engine_device"]) == ("float32", "cpu")
    assert info["coverage"]["prompt_tokens"] > 0
