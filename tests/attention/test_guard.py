"""Configurations that SageAttention cannot serve are refused by name."""

from types import SimpleNamespace

import pytest

from sage_eval.attention import guard
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.seams import server_arguments

FINE_LAYER = {
    "qk_head_dim": 128,
    "v_head_dim": 128,
    "logit_cap": 0.0,
    "sliding_window_size": -1,
    "is_cross_attention": False,
    "attn_type": SimpleNamespace(value="decoder"),
    "xai_temperature_len": -1,
    "k_scale": None,
    "v_scale": None,
}


def test_an_ordinary_layer_passes():
    guard.check_layer(SimpleNamespace(**FINE_LAYER))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("qk_head_dim", 80),
        ("v_head_dim", 64),
        ("logit_cap", 30.0),
        ("sliding_window_size", 4095),
        ("is_cross_attention", True),
        ("attn_type", SimpleNamespace(value="encoder_only")),
        ("xai_temperature_len", 1024),
        ("k_scale", 0.5),
    ],
)
def test_a_layer_that_needs_more_is_refused_by_name(field, value):
    name = field.removeprefix("qk_")
    with pytest.raises(UsageError, match=name):
        guard.check_layer(SimpleNamespace(**FINE_LAYER | {field: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("speculative_algorithm", "EAGLE"),
        ("enable_deterministic_inference", True),
        ("kv_cache_dtype", "fp8_e4m3"),
        ("dcp_size", 2),
        ("attn_cp_size", 2),
        ("enable_two_batch_overlap", True),
        ("enable_pdmux", True),
        ("enable_mis", True),
        ("enable_hisparse", True),
        ("dllm_algorithm", "block"),
    ],
)
def test_a_server_argument_that_cannot_be_honoured_is_refused_by_name(name, value):
    assert name in server_arguments(), "SGLang renamed an argument that the guard watches"
    plain = {watched: fine[0] for watched, (fine, _) in guard._SERVER_ARGS.items()}
    guard.check_server_args(SimpleNamespace(**plain))
    with pytest.raises(UsageError, match=name):
        guard.check_server_args(SimpleNamespace(**plain | {name: value}))


def test_a_server_argument_that_sglang_no_longer_has_is_an_error_with_its_version():
    with pytest.raises(PrerequisiteError, match=r"SGLang [\d.]+ has no server argument speculative_algorithm"):
        guard.check_server_args(SimpleNamespace())


def test_arguments_of_a_call_are_refused_unless_empty():
    guard.check_call({"sinks": None})
    with pytest.raises(UsageError, match="score_mod"):
        guard.check_call({"score_mod": lambda s: s})
