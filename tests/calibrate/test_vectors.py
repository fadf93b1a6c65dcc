"""The files of mean keys that `smooth_k=static` reads, and of the balance."""

import pytest
import torch
from safetensors import safe_open

from sage_eval.attention.numerics import attention
from sage_eval.attention.vectors import load
from sage_eval.calibrate.capture import load_model, run
from sage_eval.calibrate.text import calibration
from sage_eval.calibrate.vectors import calibrate
from sage_eval.cli import main
from sage_eval.store.provenance import describe_model
from tests.calibrate.conftest import with_outliers


@pytest.fixture
def written(tiny_model, text, tmp_path):
    path = tmp_path / "shift.safetensors"
    calibrate(str(tiny_model("qwen2")), path, text, tokens=4096)
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_the_file_has_a_tensor_a_layer_and_says_of_which_model_and_text(written, tiny_model):
    tensors, metadata = written
    assert {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()} == {
        f"layers.{i}": ((2, 64), torch.float32) for i in range(2)
    }
    assert metadata["model_sha256"] == describe_model("x", tiny_model("qwen2"))["sha256"]
    assert metadata["tokens"] == "4096"
    assert metadata["text"].startswith("text.txt")


def test_the_shift_is_the_mean_over_all_windows(written, tiny_model, text):
    keys = []
    model = load_model(tiny_model("qwen2"))
    for window in calibration(tiny_model("qwen2"), text, tokens=4096).windows:
        run(model, window, lambda seen: keys.append(seen.k) if seen.layer == 1 else None)
    assert len(keys) == 2
    torch.testing.assert_close(written[0]["layers.1"], torch.cat(keys).float().mean(0))


@pytest.fixture
def outliers(tiny_model, tmp_path):
    """A Qwen2 whose K has a large bias in some channels, which RoPE turns."""
    return with_outliers(tiny_model("qwen2"), tmp_path / "outliers")


def test_the_balance_is_read_back_and_lowers_the_error_on_another_text(outliers, text, tmp_path):
    path = tmp_path / "balance.safetensors"
    calibrate(str(outliers), None, text, balance=path, tokens=1024)
    balance = load("balance", path, 2, 2, 64)
    seen = []
    run(load_model(outliers), calibration(outliers, text, tokens=512).windows[0][::-1], seen.append)
    for layer in seen:
        q, k, v = layer.q, layer.k, layer.v
        exact = attention(q, k, v, scale=layer.scale, variant="exact")
        error = {
            name: (attention(q, k, v, scale=layer.scale, balance=given) - exact).norm()
            for name, given in (("as it is", None), ("balanced", balance[layer.layer]))
        }
        assert error["balanced"] < 0.5 * error["as it is"]


def test_no_file_to_write_is_a_usage_error(tiny_model, text, capsys):
    assert main(["calibrate", str(tiny_model("llama")), "--text", str(text)]) == 2
    assert "name a file to write" in capsys.readouterr().err


def test_the_shift_does_what_it_is_for(written, tiny_model, text):
    """On keys with a mean (this model's biases), static smoothing is about as good as the sequence's own mean."""
    seen = []
    window = calibration(tiny_model("qwen2"), text, tokens=512).windows[0]
    run(load_model(tiny_model("qwen2")), window[::-1], seen.append)
    _, q, k, v, scale = seen[1]
    k = k.float() + 20 * written[0]["layers.1"]
    shift = 21 * written[0]["layers.1"]
    exact = attention(q.float(), k, v, scale=scale, variant="exact")
    error = {
        name: (attention(q.float(), k, v, scale=scale, smooth_k=name, k_shift=shift) - exact).norm()
        for name in ("sequence", "static", "off")
    }
    assert error["static"] < 1.2 * error["sequence"] < 0.5 * error["off"]


def test_the_command_says_what_it_wrote(tiny_model, text, tmp_path, capsys):
    path = tmp_path / "out" / "shift.safetensors"
    assert main(["calibrate", str(tiny_model("llama")), "--output", str(path), "--text", str(text)]) == 0
    assert "mean K of 2 layers over" in capsys.readouterr().out
    assert path.is_file()


def test_too_few_tokens_is_one_line(tiny_model, tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("A word.")
    assert main(["calibrate", str(tiny_model("llama")), "--output", str(tmp_path / "x"), "--text", str(short)]) == 2
    assert "sage-eval: error: 3 tokens of calibration text" in capsys.readouterr().err
