"""One name for each setting, in the environment as in Python."""

import pytest

from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import UsageError


def test_settings_survive_the_way_through_the_environment():
    settings = AttentionSettings(variant="int4-fp16", smooth_k="off", decode="exact", min_tokens=7, strict=True)
    assert AttentionSettings.from_env(settings.to_env() | {"PATH": "/bin"}) == settings


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("VARIANT", "int3", "int8-fp16"),
        ("MIN_TOKENS", "-1", "greater than or equal to 0"),
        ("SMOTH_K", "off", "smoth_k"),
    ],
)
def test_a_bad_value_or_name_is_an_error_that_names_it(name, value, hint):
    with pytest.raises(UsageError, match=hint):
        AttentionSettings.from_env({f"SAGE_ATTN_{name}": value})
