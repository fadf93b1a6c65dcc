"""`smooth_k=static` in a real engine: a prompt whole, in chunks, and after a cached prefix."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sage_eval.engine.requests import ScoreRequest

pytestmark = [pytest.mark.engine, pytest.mark.slow]
CONTEXT, CUT = 1100, 512  # a multiple of 128 query rows and of 64 keys


@pytest.fixture(scope="module")
def shift(tmp_path_factory, reference_model):
    config = json.loads((reference_model / "config.json").read_text())
    heads, dim = config["num_key_value_heads"], config["head_dim"]
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layers.{i}": torch.randn(heads, dim, generator=generator) for i in range(config["num_hidden_layers"])}
    path = tmp_path_factory.mktemp("shift") / "shift.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def scores(open_arm, reference_model, prose, shift):
    """Log-probability of the tokens after the context, by the way the context came and by smoothing."""
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(reference_model).encode(prose)
    request = ScoreRequest(tuple(text[:CONTEXT]), tuple(text[CONTEXT : CONTEXT + 64]))
    found = {}
    for smooth_k, size in (("static", CUT), ("static", -1), ("sequence", -1)):
        sage = {"smooth_k": smooth_k} | ({"shift": str(shift)} if smooth_k == "static" else {})
        arm = open_arm(attention_backend="sage_attn", disable_radix_cache=False, chunked_prefill_size=size, **sage)
        found[smooth_k, "whole" if size < 0 else "chunked"] = arm.score([request])[0].total
        if size < 0:
            arm.flush_cache()
            arm.score([ScoreRequest(tuple(text[:CUT]), (5,))])
            before = arm.coverage.cached_tokens
            found[smooth_k, "prefix"] = arm.score([request])[0].total
            assert arm.coverage.cached_tokens == before + CUT
    return found


@pytest.mark.parametrize("way", ["chunked", "prefix"])
def test_the_way_a_prompt_comes_changes_nothing(scores, way):
    """But for the linear layers, whose sums depend a little on how many rows they get."""
    assert scores["static", way] == pytest.approx(scores["static", "whole"], abs=1e-4)


def test_the_sequences_own_mean_makes_a_difference(scores):
    assert abs(scores["sequence", "prefix"] - scores["sequence", "whole"]) > 1e-3
