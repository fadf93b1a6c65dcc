"""Published shapes of models."""

import pytest

from sage_eval.arms.shape import SHAPES, describe, write_shape


def test_the_shape_of_llama_8b_has_its_parameters_and_its_cache(tmp_path):
    sizes = describe(write_shape("llama-3.1-8b", tmp_path))
    # 8,030,261,248 parameters are published; the norms (2 · 32 + 1 vectors of 4096) are not counted here.
    assert sizes["weight_bytes"] == 2 * (8_030_261_248 - 65 * 4096)
    assert sizes["kv_bytes_per_token"] == 131_072


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_configurations_that_transformers_reads(name, tmp_path):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(write_shape(name, tmp_path))
    assert config.num_attention_heads * config.head_dim == config.hidden_size
