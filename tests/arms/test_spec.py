"""The syntax of arms."""

import pytest

from sage_eval.arms.spec import parse_arms
from sage_eval.errors import UsageError


def test_backends_and_settings_of_each_arm():
    arms = parse_arms("triton, sage_attn+fa3:variant=int8-fp8,smooth_k=off,sage_attn:min_tokens=512")
    assert [arm.name for arm in arms] == [
        "triton",
        "sage_attn+fa3:variant=int8-fp8,smooth_k=off",
        "sage_attn:min_tokens=512",
    ]
    assert [arm.arguments for arm in arms] == [
        {"attention_backend": "triton"},
        {
            "prefill_attention_backend": "sage_attn",
            "decode_attention_backend": "fa3",
            "variant": "int8-fp8",
            "smooth_k": "off",
        },
        {"attention_backend": "sage_attn", "min_tokens": 512},
    ]


def test_smooth_k_off_is_text_and_not_yaml_false():
    assert parse_arms("sage_attn:smooth_k=off")[0].arguments["smooth_k"] == "off"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no arm"),
        ("triton,triton", "twice"),
        ("variant=exact", "BACKEND:variant=exact"),
        ("triton,variant=exact", "BACKEND:variant=exact"),
        ("triton:variant=exact", "setting of sage_attn"),
        ("sage_attn:variant=int9", "variant='int9'"),
        ("sage_attn:varient=exact", "varient"),
        ("sage_attn:", "PREFILL\\+DECODE"),
        ("sage_attn+", "PREFILL\\+DECODE"),
        ("sage_attn:exact", "name=value"),
    ],
)
def test_what_is_no_arm_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_arms(text)
