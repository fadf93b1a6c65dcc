import pytest

from model_adapters._sampling import sampling_parameters
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


def test_the_callers_arguments_stay_as_they_are():
    kwargs = {"until": ["\n"], "max_gen_toks": 3}
    sampling_parameters(kwargs, default_max=256, eos="</s>")
    assert kwargs == {"until": ["\n"], "max_gen_toks": 3}


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(UsageError, match=r"topp=0.9; did you mean 'top_p'"):
        convert(topp=0.9)


def test_arguments_that_change_nothing_pass_and_others_do_not():
    assert "num_beams" not in convert(num_beams=1)[0]
    with pytest.raises(UsageError, match="num_beams=4"):
        convert(num_beams=4)
