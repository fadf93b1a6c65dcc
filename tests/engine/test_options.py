import pytest

from sage_eval.engine.options import ArmOptions
from sage_eval.errors import UsageError


def options(**arguments):
    return ArmOptions.from_arguments("model", **arguments)


def test_fidelity_computes_every_token_afresh_and_in_one_piece():
    values = options(max_length=20_000).server_args("cuda")
    assert values["disable_radix_cache"] is True
    assert values["chunked_prefill_size"] == -1
    assert values["max_prefill_tokens"] > 20_000
    assert values["context_length"] > 20_000


def test_a_cpu_engine_sleeps_while_idle_and_answers_in_small_batches():
    values = options(max_length=20_000).server_args("cpu")
    assert values["sleep_on_idle"] is True
    assert values["max_prefill_tokens"] <= 2048
    assert options(sleep_on_idle=False).server_args("cpu")["sleep_on_idle"] is False
    assert not {"sleep_on_idle", "max_prefill_tokens"} & set(options().server_args("cuda"))


def test_throughput_leaves_sglangs_own_settings():
    values = options(mode="throughput").server_args("cuda")
    assert not {"disable_radix_cache", "chunked_prefill_size", "disable_cuda_graph"} & set(values)


def test_sglangs_own_arguments_win_over_defaults_but_not_over_the_device():
    values = options(disable_radix_cache=False, random_seed=7, device="cuda:0").server_args("cpu")
    assert values["disable_radix_cache"] is False
    assert values["random_seed"] == 7
    assert values["device"] == "cpu"


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(UsageError, match=r"'atention_backend'.*did you mean attention_backend"):
        options(atention_backend="triton")


def test_a_mistyped_setting_names_the_nearest():
    with pytest.raises(UsageError, match=r"'smoothk'.*did you mean smooth_k"):
        options(attention_backend="sage_attn", smoothk="off")


def test_settings_reach_the_scheduler_by_its_environment():
    settings = {"variant": "int4-fp16", "min_tokens": 32}
    environment = options(attention_backend="sage_attn", mode="throughput", **settings).environment()
    assert environment["SAGE_ATTN_VARIANT"] == "int4-fp16"
    assert environment["SAGE_ATTN_MIN_TOKENS"] == "32"


def test_settings_already_in_the_environment_hold_until_overridden(monkeypatch):
    monkeypatch.setenv("SAGE_ATTN_SMOOTH_K", "off")
    monkeypatch.setenv("SAGE_ATTN_VARIANT", "exact")
    attention = options(attention_backend="sage_attn", variant="int8-fp8").attention
    assert (attention.smooth_k, attention.variant) == ("off", "int8-fp8")


def test_a_setting_for_another_backend_is_refused():
    with pytest.raises(UsageError, match=r"variant: settings of attention_backend=sage_attn.* triton"):
        options(attention_backend="triton", variant="exact")


def test_fidelity_leaves_no_sequence_to_another_kernel():
    with pytest.raises(UsageError, match=r"min_tokens=32.*mode=throughput"):
        options(attention_backend="sage_attn", min_tokens=32)


def test_a_bad_setting_is_refused_with_its_value():
    with pytest.raises(UsageError, match="variant='int5'"):
        options(attention_backend="sage_attn", variant="int5")


@pytest.mark.parametrize(
    ("arguments", "backend", "sage_prefill"),
    [
        ({}, None, False),
        ({"attention_backend": "sage_attn"}, "sage_attn", True),
        ({"prefill_attention_backend": "sage_attn", "decode_attention_backend": "fa3"}, "sage_attn+fa3", True),
        ({"attention_backend": "triton", "decode_attention_backend": "sage_attn"}, "triton+sage_attn", False),
    ],
)
def test_the_backend_is_named_by_phase_where_phases_differ(arguments, backend, sage_prefill):
    built = options(**arguments)
    assert (built.backend, built.sage_prefill) == (backend, sage_prefill)


@pytest.mark.parametrize("arguments", [{"mode": "fast"}, {"max_length": 1}, {"max_length": 8, "context_length": 16}])
def test_impossible_options_are_usage_errors(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        options(**arguments)
