"""What a diagnosis says of a model that is damaged in a known place."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sage_eval.attention.numerics import attention
from sage_eval.calibrate.capture import Seen, load_model, run
from sage_eval.calibrate.diagnose import Diagnosis, attends, diagnose, divergences, outliers
from sage_eval.calibrate.layouts import Layout
from sage_eval.calibrate.scales import errors
from sage_eval.cli import main
from sage_eval.errors import UsageError
from tests.calibrate.conftest import with_outliers

IDS = [1, *range(3000, 3255)]


@pytest.fixture(scope="module")
def damaged(tiny_model, tmp_path_factory):
    """A Qwen2 with a rotating K bias in layer 1 alone."""
    folder = with_outliers(tiny_model("qwen2"), tmp_path_factory.mktemp("models") / "damaged")
    healthy = {key: x for path in tiny_model("qwen2").glob("*.safetensors") for key, x in load_file(path).items()}
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        save_file({k: healthy[k] if "layers.0." in k else x for k, x in tensors.items()}, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def found(damaged, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(("A text of words that come again in another order, line %d.\n" * 400) % tuple(range(400)))
    return diagnose(str(damaged), text, tokens=512, divergence=1)


def test_the_damaged_layer_is_named_with_its_cause_and_its_cure(found):
    assert found.damaged() == [1]
    layer = found.layers[1]
    assert {outlier.kind for outlier in layer.outliers} == {"rotates"}
    assert {outlier.channel for outlier in layer.outliers} <= {3, 17, 35, 49}
    assert all(outlier.ratio > 8 for outlier in layer.outliers)
    for cure in ("int8-fp16 checkpoint", "int8-fp16 balance"):
        assert layer.error(cure) < 0.5 * layer.error("int8-fp16")
    assert found.share(1) > 0.5


def test_the_divergence_falls_with_the_error(found):
    kl = {divergence.variant: divergence.kl for divergence in found.divergences}
    assert 0 < kl["int8-fp16 balance"] < 0.5 * kl["int8-fp16"]
    assert all(divergence.tokens == 512 for divergence in found.divergences)


def test_lengths_are_halved_down_to_a_query_block(found):
    assert found.lengths == [128, 256, 512]
    assert len(found.layers[0].errors["int8-fp16"]) == 2
    assert len(found.layers[0].errors["int8-fp16"][0]) == 3


def test_exact_attention_in_place_of_itself_diverges_by_nothing(damaged):
    model = load_model(damaged)
    [floor] = divergences(model, [IDS], {"exact": attends({}, variant="exact")})
    assert (floor.kl, floor.same_top, floor.loss) == (0, 1, 0)


def test_the_sampled_error_is_that_of_the_last_queries_of_the_whole_sequence(damaged):
    seen: list[Seen] = []
    run(load_model(damaged), IDS, seen.append)
    q, k, v, scale = seen[1][1:]
    balance = torch.rand(2, 64) + 0.5
    out, exact = (
        attention(q, k, v, scale=scale, variant=variant, balance=balance)[128:] for variant in ("int8-fp16", "exact")
    )
    want = (out - exact).view(128, 2, -1).norm(dim=(0, 2)) / exact.view(128, 2, -1).norm(dim=(0, 2))
    both = errors(seen[1], [256], torch.stack([torch.ones(2, 64), balance]))
    torch.testing.assert_close(both[0, 1], want, rtol=1e-3, atol=1e-6)


def test_a_channel_that_turns_is_told_from_one_that_varies():
    angle, k = 0.3 * torch.arange(256), torch.randn(256, 2, 16, generator=torch.Generator().manual_seed(0))
    k[:, 0, 2] += 50 * angle.cos()
    k[:, 0, 10] += 50 * angle.sin()
    k[::16, 1, 4] += 50
    turning, spiky = outliers(k, Layout())
    assert turning.channel in (2, 10)
    assert (turning.kind, spiky.channel, spiky.kind) == ("rotates", 4, "varies")


def test_the_command_writes_a_page_a_figure_and_json(damaged, text, tmp_path, capsys):
    output = tmp_path / "diagnosis"
    command = ["diagnose", str(damaged), "--text", str(text), "--tokens", "256", "--output", str(output)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "**layer 1** carries" in out
    assert (output / "diagnosis.md").read_text() == out
    assert Diagnosis.model_validate_json((output / "diagnosis.json").read_bytes()).damaged() == [1]
    assert "<svg" in (output / "diagnosis.svg").read_text()


def test_an_architecture_whose_checkpoint_cannot_be_balanced_is_diagnosed_all_the_same(tiny_model, text, tmp_path):
    source = tmp_path / "partial"
    shutil.copytree(tiny_model("llama"), source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"use_qk_norm": True}))
    found = diagnose(str(source), text, tokens=256)
    assert "int8-fp16 balance" in found.variants
    assert "int8-fp16 checkpoint" not in found.variants


def test_a_text_without_a_further_window_is_refused(damaged, text):
    text.write_text(text.read_text()[:3000])
    with pytest.raises(UsageError, match="no further window of 256 tokens to measure"):
        diagnose(str(damaged), text, tokens=256, divergence=1)
