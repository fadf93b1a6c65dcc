"""What is captured is what attention gets: checked against the model's own modules and its own attention."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sage_eval.attention.numerics import attention
from sage_eval.calibrate.capture import load_model, run
from sage_eval.errors import PrerequisiteError
from tests.calibrate.conftest import MODELS

IDS = [1, *range(100, 299)]


def captured(folder, dtype="float32"):
    seen = []
    logits = run(load_model(folder, dtype), IDS, seen.append)
    return seen, logits


@pytest.mark.parametrize("kind", MODELS)
def test_the_captured_keys_are_the_projections_after_norm_and_rotation(tiny_model, kind):
    seen, _ = captured(tiny_model(kind))
    model = load_model(tiny_model(kind), "float32")
    attn = model.model.layers[1].self_attn
    caught = {}
    names = {"q": "q_norm" if kind == "qwen3" else "q_proj", "k": "k_norm" if kind == "qwen3" else "k_proj"}
    for letter, name in names.items():
        getattr(attn, name).register_forward_hook(lambda _m, _i, out, letter=letter: caught.update({letter: out}))
    run(model, IDS, lambda _seen: None)
    angles = rotation(len(IDS), model.model.rotary_emb.inv_freq)
    for letter, got in (("q", seen[1].q), ("k", seen[1].k)):
        before = caught[letter].view(len(IDS), -1, 64)
        torch.testing.assert_close(got, rotated(before, angles, interleaved=kind == "cohere"), atol=1e-5, rtol=1e-5)


def rotation(tokens, frequencies):
    angle = torch.arange(tokens)[:, None] * frequencies
    return torch.polar(torch.ones_like(angle), angle)[:, None, :]


def rotated(x, angles, *, interleaved):
    """RoPE as a product of complex numbers: another formula than transformers'."""
    if interleaved:
        turned = torch.complex(x[..., ::2].contiguous(), x[..., 1::2].contiguous()) * angles
        return torch.stack([turned.real, turned.imag], -1).flatten(-2)
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * angles
    return torch.cat([turned.real, turned.imag], -1)


@pytest.mark.parametrize("kind", MODELS)
def test_the_logits_are_those_of_the_uncaptured_model(tiny_model, kind):
    """Sliding windows too: a mask that is not registered would be none."""
    _, logits = captured(tiny_model(kind))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model(kind), dtype=torch.float32, attn_implementation="sdpa")
    with torch.inference_mode():
        assert torch.equal(logits, plain.eval()(torch.tensor([IDS])).logits[0])


def test_the_definition_on_the_captured_tensors_is_the_layers_attention(tiny_model):
    seen, _ = captured(tiny_model("qwen2"))
    model = load_model(tiny_model("qwen2"), "float32")
    inputs = []
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    run(model, IDS, lambda _seen: None)
    _, q, k, v, scale = seen[0]
    exact = attention(q, k, v, scale=scale, variant="exact")
    torch.testing.assert_close(exact.flatten(1), inputs[0][0], atol=1e-5, rtol=1e-5)


def test_a_model_whose_attention_goes_elsewhere_is_refused(tiny_model):
    model = load_model(tiny_model("llama"), "float32")
    model.set_attn_implementation("eager")
    with pytest.raises(PrerequisiteError, match="0 of 2 layers of this llama model"):
        run(model, IDS, lambda _seen: None)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PrerequisiteError, match="cannot load the model"):
        load_model(tmp_path)
