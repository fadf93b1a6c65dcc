"""Arms written as one word."""

import pytest

from sage_eval.errors import UsageError
from sage_eval.probes.arms import parse_arm


def test_two_backends_and_settings():
    assert parse_arm("sage_attn+fa3:variant=int8-fp8,min_tokens=64") == {
        "prefill_attention_backend": "sage_attn",
        "decode_attention_backend": "fa3",
        "variant": "int8-fp8",
        "min_tokens": 64,
    }


def test_one_backend_serves_both_phases():
    assert parse_arm("triton") == {"attention_backend": "triton"}


@pytest.mark.parametrize("word", ["", ":variant=exact", "sage_attn+", "sage_attn:exact"])
def test_what_is_no_arm_is_refused(word):
    with pytest.raises(UsageError, match="arm"):
        parse_arm(word)
