"""Checkpoints under outlier stress: the same function, bit for bit, and a larger error."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sage_eval.calibrate import layouts
from sage_eval.calibrate.checkpoint import weight_files
from sage_eval.calibrate.stress import RISE, Stress, complete, stress
from sage_eval.cli import main
from sage_eval.errors import DataError, UsageError
from sage_eval.store.provenance import describe_model
from tests.calibrate.conftest import MODELS

TOKENS = 384
IDS = torch.tensor([[1, *range(3000, 3150)]])


@pytest.fixture
def stressed(tiny_model, text, tmp_path):
    """`stressed(kind, scales)`: what was measured, and the folders by scale."""

    def make(kind, scales=(16,), **given):
        doses = stress(str(tiny_model(kind)), scales, tmp_path / "run", text, tokens=TOKENS, **given)
        return doses, {scale: tmp_path / "run" / "stress" / str(scale) for scale in scales}

    return make


def logits(folder, implementation):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=implementation)
    with torch.inference_mode():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", MODELS)
def test_the_function_is_the_same_bit_for_bit_on_a_text_that_no_check_has_seen(stressed, tiny_model, kind):
    _, folders = stressed(kind, (4, 64))
    for implementation in ("sdpa", "eager"):
        original = logits(tiny_model(kind), implementation)
        assert all(torch.equal(logits(folder, implementation), original) for folder in folders.values())


@pytest.mark.parametrize("kind", MODELS)
def test_the_error_grows_with_the_dose(stressed, kind):
    doses, _ = stressed(kind, (1, 4, 64))
    assert doses.rise(doses.reference_scale) >= RISE
    rises = [doses.rise(dose.scale) for dose in doses.doses]
    assert rises[0] == 1
    assert all(a < b for a, b in pairwise(rises))


@pytest.mark.parametrize(("kind", "names"), [("qwen2", ("proj.weight", "proj.bias")), ("qwen3", ("norm.weight",))])
def test_two_rows_of_k_and_those_of_the_groups_queries_are_scaled_and_nothing_else(stressed, tiny_model, kind, names):
    _, folders = stressed(kind)
    record = Stress.model_validate_json((folders[16] / "stress.json").read_bytes())
    shape = layouts.shape_of(tiny_model(kind))
    changed = {}
    for file in weight_files(tiny_model(kind)):
        old, new = load_file(tiny_model(kind) / file), load_file(folders[16] / file)
        assert old.keys() == new.keys()
        for name, tensor in old.items():
            assert new[name].dtype == tensor.dtype
            if not torch.equal(tensor, new[name]):
                changed[name] = (new[name].float() / tensor.float()).view(len(tensor), -1)[:, 0]
    expected = {f"model.layers.{i}.self_attn.{x}_{name}" for i in range(2) for x in "qk" for name in names}
    assert changed.keys() == expected
    for layer in range(2):
        for name in names:
            k = changed[f"model.layers.{layer}.self_attn.k_{name}"].view(-1, 64)
            q = changed[f"model.layers.{layer}.self_attn.q_{name}"].view(-1, 64)
            for head, [pair] in enumerate(record.pairs[layer][: len(k)]):
                assert k[head].nonzero().numel() == 64
                assert sorted((k[head] == 16).nonzero().flatten().tolist()) == sorted(pair)
                group = len(q) // len(k)
                for row in q[head * group : (head + 1) * group]:
                    assert torch.equal(row, 1 / k[head])
    assert shape.layout.norms == (kind == "qwen3")


def test_the_copy_has_the_same_files_and_says_what_it_is(stressed, tiny_model):
    _, folders = stressed("llama")
    source = tiny_model("llama")
    names = {path.name for path in source.iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    assert {path.name for path in folders[16].iterdir()} == names | {"stress.json"}
    for name in names:
        if not name.endswith(".safetensors"):
            assert (folders[16] / name).read_bytes() == (source / name).read_bytes()
    record = json.loads((folders[16] / "stress.json").read_text())
    assert (record["scale"], record["source_sha256"]) == (16, describe_model("x", source)["sha256"])
    assert complete(folders[16], 16, record["source_sha256"])
    assert not complete(folders[16], 16, "another model")
    assert not list(folders[16].parent.glob(".*"))


def test_it_is_made_alike_every_time(stressed):
    folder = stressed("qwen3")[1][16]
    first = describe_model("x", folder)["sha256"]
    shutil.rmtree(folder)
    stressed("qwen3")
    assert describe_model("x", folder)["sha256"] == first


def test_a_finished_checkpoint_stays_and_an_unfinished_one_is_made_again(stressed):
    _, folders = stressed("llama")
    shard = next(folders[16].glob("*.safetensors"))
    before = shard.stat().st_mtime_ns
    stressed("llama")
    assert shard.stat().st_mtime_ns == before
    shard.unlink()
    stressed("llama")
    assert shard.is_file()


def test_two_pairs_a_head_replace_one(stressed):
    stressed("llama")
    doses, folders = stressed("llama", pairs=2)
    record = Stress.model_validate_json((folders[16] / "stress.json").read_bytes())
    assert all(len(head) == 2 for layer in record.pairs for head in layer)
    assert doses.rise(doses.reference_scale) >= RISE


@pytest.mark.slow
def test_the_reference_model_is_stressed_as_it_should_be(reference_model, text, tmp_path):
    doses = stress(str(reference_model), (16,), tmp_path, text, tokens=512)
    assert doses.rise(doses.reference_scale) >= RISE
    assert torch.equal(logits(reference_model, "sdpa"), logits(tmp_path / "stress" / "16", "sdpa"))


def test_pairs_that_are_not_rotated_together_are_found_out_and_leave_nothing(stressed, monkeypatch, tmp_path):
    monkeypatch.setitem(layouts.LAYOUTS, "llama", layouts.Layout(interleaved=True))
    with pytest.raises(DataError, match="not bit-identical"):
        stressed("llama")
    assert not list((tmp_path / "run" / "stress").glob("*"))


def test_a_stress_that_does_too_little_is_refused(stressed, monkeypatch):
    monkeypatch.setattr("sage_eval.calibrate.stress.RISE", 1000.0)
    with pytest.raises(DataError, match=r"error rises .* times, less than 1000"):
        stressed("llama")


def test_keys_that_leave_the_range_of_fp16_are_refused(stressed):
    with pytest.raises(DataError, match="beyond fp16's range"):
        stressed("llama", (1 << 20,))


def test_an_unknown_architecture_is_refused_by_name(unsupported, text, tmp_path):
    with pytest.raises(UsageError, match=r"knows the layouts of llama, mistral, qwen2, qwen3, .* is 'phi3'"):
        stress(str(unsupported), (16,), tmp_path / "run", text, tokens=TOKENS)


@pytest.mark.parametrize("scale", [0, 3, -4])
def test_a_dose_is_a_power_of_two(stressed, scale):
    with pytest.raises(UsageError, match=f"--scale {scale}"):
        stressed("llama", (scale,))


@pytest.fixture
def copy(tiny_model, tmp_path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model("llama"), folder)
    return folder


def edit(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def test_a_quantised_checkpoint_is_refused(copy):
    edit(copy, quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"})
    with pytest.raises(UsageError, match="quantised checkpoint"):
        layouts.shape_of(copy)


def test_weights_that_a_power_of_two_would_round_are_refused(copy, text, tmp_path):
    """fp16 has few small numbers: what is near its least normal one loses bits when divided."""
    for name in weight_files(copy):
        save_file({key: x.half() for key, x in load_file(copy / name).items()}, copy / name, {"format": "pt"})
    with pytest.raises(UsageError, match=r"cannot be scaled by .* exactly in torch.float16"):
        stress(str(copy), (1 << 10,), tmp_path / "run", text, tokens=TOKENS)
    assert not list((tmp_path / "run" / "stress").glob("*"))


def test_tensors_under_other_names_are_refused(copy, text, tmp_path):
    index = copy / "model.safetensors.index.json"
    for name in weight_files(copy):
        renamed = {key.replace("q_proj", "query"): x for key, x in load_file(copy / name).items()}
        save_file(renamed, copy / name, {"format": "pt"})
    index.write_text(index.read_text().replace("q_proj", "query"))
    with pytest.raises(UsageError, match=r"has no model\.layers\.0\.self_attn\.q_proj\.weight"):
        stress(str(copy), (16,), tmp_path / "run", text, tokens=TOKENS)
    assert not list((tmp_path / "run" / "stress").glob("*"))


def test_a_folder_of_something_else_is_not_replaced(stressed, tmp_path):
    mine = tmp_path / "run" / "stress" / "16" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"has no stress\.json, so it is not replaced"):
        stressed("llama")
    assert mine.read_text() == "mine"


def test_the_command_prints_the_doses_and_how_to_measure_them(tiny_model, text, tmp_path, capsys):
    text.write_text(text.read_text()[:1500])
    output = tmp_path / "run"
    arguments = ["--scale", "1,16", "--output", str(output), "--text", str(text), "--tasks", "sage_prose"]
    assert main(["stress", str(tiny_model("llama")), *arguments]) == 0
    out, err = capsys.readouterr()
    assert "| 16 (reference) |" in out or "| 32 (reference) |" in out
    assert f"--tasks sage_prose --arms stress=1,stress=16,control --output {output}" in err


def test_a_scale_that_is_no_number_is_one_line(capsys):
    assert main(["stress", "reference_model", "--scale", "big"]) == 2
    assert "--scale big: powers of two" in capsys.readouterr().err
