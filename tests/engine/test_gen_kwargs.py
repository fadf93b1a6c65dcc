import json
import logging

import pytest

from sage_eval.engine import gen_kwargs
from sage_eval.engine.gen_kwargs import generation_defaults, sampling_parameters
from sage_eval.errors import UsageError


def convert(**kwargs):
    return sampling_parameters(kwargs, default_max=256, eos="</s>")


@pytest.mark.parametrize(
    ("kwargs", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": False, "temperature": 0.8}, 0.0),
        ({"temperature": 0.8}, 0.8),
        ({"do_sample": True, "temperature": 0.6}, 0.6),
    ],
)
def test_greedy_unless_sampling_is_asked_for(kwargs, temperature):
    assert convert(**kwargs)[0]["temperature"] == temperature


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_every_name_of_the_length(name):
    sampling, _ = convert(**{name: 7})
    assert sampling["max_new_tokens"] == 7
    assert "max_tokens" not in sampling


def test_stops_are_the_requests_own_and_eos():
    sampling, until = convert(until=["\n", ""])
    assert until == ["\n", "", "</s>"]
    assert sampling["stop"] == ["\n", "</s>"], "an empty stop would end every generation at once"


@pytest.mark.parametrize(("until", "stops"), [(None, []), ("\n", ["\n"]), (("\n", "Q:"), ["\n", "Q:"]), ([], [])])
def test_stops_may_be_given_in_any_form(until, stops):
    assert convert(until=until)[0]["stop"] == [*stops, "</s>"]


@pytest.mark.parametrize("until", [[("a",)], [None], 3, ["a", 5]])
def test_a_stop_that_is_no_text_is_refused(until):
    with pytest.raises(UsageError, match="until="):
        convert(until=until)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"}, {"top_p": "0.9", "do_sample": True, "temperature": 1.0}, {"top_k": 1.5},
        {"stop_token_ids": ["a"]}, {"stop_token_ids": 3}, {"logit_bias": [1]}, {"logit_bias": {"x": 1.0}},
        {"ignore_eos": "yes"}, {"regex": 3}, {"repetition_penalty": True}, {"max_gen_toks": "many"},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_the_scheduler_would_die_of_is_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        convert(**wrong)


def test_an_argument_without_a_value_is_as_if_it_were_not_given():
    assert convert(temperature=None, top_p=None, until=["a"]) == convert(until=["a"])


def test_no_top_k_is_written_as_in_transformers():
    assert convert(do_sample=True, temperature=1.0, top_k=0)[0]["top_k"] == -1


def test_the_seed_is_hinted_at_by_sglangs_name():
    with pytest.raises(UsageError, match="sampling_seed"):
        convert(seed=3)


@pytest.fixture
def warned(caplog):
    """What was warned of, said anew for each test."""
    gen_kwargs._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):  # an engine of another test may have set the root's
        yield lambda: caplog.text


@pytest.mark.parametrize("kwargs", [{"repetition_penalty": 1.2}, {"until": [""]}])
def test_what_means_something_else_under_hf_is_a_warning(kwargs, warned):
    convert(**kwargs)
    assert next(iter(kwargs)) in warned()


@pytest.fixture
def written(tmp_path):
    """`written(**settings)`: a folder with this `generation_config.json`."""

    def write(**settings):
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return write


def test_a_models_own_generation_settings_hold_where_the_task_is_silent(written):
    own = generation_defaults(written(repetition_penalty=1.1, top_p=0.8, top_k=20, temperature=0.7, do_sample=True))
    assert own == {"repetition_penalty": 1.1, "top_p": 0.8, "top_k": 20, "temperature": 0.7}
    greedy, _ = sampling_parameters({}, default_max=8, eos=None, defaults=own)
    assert greedy == {"repetition_penalty": 1.1, "temperature": 0.0, "max_new_tokens": 8, "stop": []}
    sampled, _ = sampling_parameters({"do_sample": True, "top_p": 0.5}, default_max=8, eos=None, defaults=own)
    assert (sampled["temperature"], sampled["top_p"], sampled["top_k"]) == (0.7, 0.5, 20)


def test_a_generation_setting_that_is_not_obeyed_is_a_warning(written, warned):
    assert generation_defaults(written(no_repeat_ngram_size=3, eos_token_id=2)) == {}
    assert "no_repeat_ngram_size=3" in warned()
    assert "eos_token_id" not in warned()


def test_a_model_without_generation_settings_has_none(tmp_path):
    assert generation_defaults(str(tmp_path)) == {}


def test_the_bundled_model_sets_no_length_of_its_own(reference_model):
    """transformers would let it win over the length that a task asks for."""
    assert "max_new_tokens" not in json.loads((reference_model / "generation_config.json").read_text())


def test_the_callers_arguments_stay_as_they_are():
    kwargs = {"until": ["\n"], "max_gen_toks": 3}
    sampling_parameters(kwargs, default_max=256, eos="</s>")
    assert kwargs == {"until": ["\n"], "max_gen_toks": 3}


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(UsageError, match=r"topp=0.9; did you mean top_p"):
        convert(topp=0.9)


def test_arguments_that_change_nothing_pass_and_others_do_not():
    assert "num_beams" not in convert(num_beams=1)[0]
    with pytest.raises(UsageError, match="num_beams=4"):
        convert(num_beams=4)
