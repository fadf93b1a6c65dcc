"""Balanced checkpoints: the same function, bit for bit, and a smaller error; and what cannot be balanced."""

import json
import shutil
from statistics import fmean as mean

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sage_eval.calibrate import checkpoint
from sage_eval.calibrate.balance import Balance, balance
from sage_eval.calibrate.capture import load_model, run
from sage_eval.calibrate.checkpoint import weight_files
from sage_eval.calibrate.scales import choose
from sage_eval.cli import main
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from tests.calibrate.conftest import MODELS, with_outliers

TOKENS = 384
IDS = torch.tensor([[1, *range(3000, 3150)]])
OUTLIERS = [kind for kind in MODELS if kind in ("qwen2", "qwen3")]


@pytest.fixture
def outliers(tiny_model, tmp_path):
    return lambda kind: with_outliers(tiny_model(kind), tmp_path / f"{kind}-outliers")


def logits(folder, implementation):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=implementation)
    with torch.inference_mode():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", OUTLIERS)
def test_outliers_are_balanced_and_the_function_is_the_same_in_every_bit(outliers, text, tmp_path, kind):
    source, target = outliers(kind), tmp_path / "balanced"
    found = balance(str(source), target, text, tokens=TOKENS)
    assert mean(found.after) < 0.6 * mean(found.before)
    assert mean(found.after) < 1.1 * mean(found.rule)
    for implementation in ("sdpa", "eager"):
        assert torch.equal(logits(source, implementation), logits(target, implementation))


@pytest.mark.parametrize("kind", MODELS)
def test_every_layout_can_be_balanced(tiny_model, text, tmp_path, kind):
    found = balance(str(tiny_model(kind)), tmp_path / "balanced", text, tokens=TOKENS)
    assert mean(found.after) < 1.1 * mean(found.before)
    assert torch.equal(logits(tiny_model(kind), "sdpa"), logits(tmp_path / "balanced", "sdpa"))


def test_exact_attention_of_captured_tensors_is_the_same_in_every_bit(outliers, text, tmp_path):
    source, target = outliers("qwen2"), tmp_path / "balanced"
    found = balance(str(source), target, text, tokens=TOKENS)
    seen = {}
    for folder in (source, target):
        run(load_model(folder, "bfloat16"), IDS[0].tolist(), lambda s, f=folder: seen.setdefault(f, []).append(s))
    for layer, (old, new) in enumerate(zip(seen[source], seen[target], strict=True)):
        t = torch.exp2(torch.tensor(found.exponents[layer]).float())
        assert torch.equal(new.k.float() * t, old.k.float())
        assert torch.equal(new.q.float(), old.q.float() * t.repeat_interleave(2, 0))
        assert torch.equal(new.v, old.v)


def test_the_folder_has_the_same_files_a_record_and_a_card(outliers, text, tmp_path):
    source, target = outliers("qwen2"), tmp_path / "balanced"
    found = balance(str(source), target, text, tokens=TOKENS)
    names = {path.name for path in source.iterdir()}
    assert {path.name for path in target.iterdir()} == names | {"balance.json", "README.md"}
    assert Balance.model_validate_json((target / "balance.json").read_bytes()) == found
    assert found.source_sha256[:16] in (target / "README.md").read_text()
    for name in weight_files(source):
        old, new = load_file(source / name), load_file(target / name)
        assert {key for key in old if not torch.equal(old[key], new[key])} <= {
            key for key in old if "q_proj" in key or "k_proj" in key
        }


def test_a_balanced_checkpoint_is_refused_and_would_not_change(outliers, text, tmp_path):
    target = tmp_path / "balanced"
    balance(str(outliers("qwen2")), target, text, tokens=TOKENS)
    with pytest.raises(UsageError, match="is balanced already"):
        balance(str(target), tmp_path / "twice", text, tokens=TOKENS)
    (target / "balance.json").unlink()
    again = balance(str(target), tmp_path / "twice", text, tokens=TOKENS)
    assert mean(again.after) > 0.9 * mean(again.before)


def test_weights_that_are_no_numbers_are_refused(tiny_model, text, tmp_path):
    source = tmp_path / "damaged"
    shutil.copytree(tiny_model("llama"), source)
    for name in weight_files(source):
        tensors = load_file(source / name)
        if "model.layers.1.self_attn.k_proj.weight" in tensors:
            tensors["model.layers.1.self_attn.k_proj.weight"][0, 0] = torch.nan
            save_file(tensors, source / name, {"format": "pt"})
    with pytest.raises(DataError, match="layer 1 are not finite"):
        balance(str(source), tmp_path / "balanced", text, tokens=TOKENS)
    assert not (tmp_path / "balanced").exists()


def test_a_disk_that_fills_up_leaves_nothing(outliers, text, tmp_path, monkeypatch):
    class Full:
        rmtree = staticmethod(shutil.rmtree)

        @staticmethod
        def copyfile(source, target):
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "shutil", Full)
    with pytest.raises(PrerequisiteError, match=r"No space left on device; it needs room for the whole model"):
        balance(str(outliers("qwen2")), tmp_path / "out" / "balanced", text, tokens=TOKENS)
    assert not list((tmp_path / "out").iterdir())


def test_a_shard_that_is_cut_is_refused(tiny_model, tmp_path):
    name = weight_files(tiny_model("llama"))[0]
    data = (tiny_model("llama") / name).read_bytes()
    for cut in (4, 100, len(data) - 7):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(data[:cut])
        names = load_file(tiny_model("llama") / name)
        with pytest.raises(DataError, match=r"cut\.safetensors is damaged"):
            checkpoint._scale_file(path, tmp_path / "out", {key: torch.ones(len(x)) for key, x in names.items()})


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "turns a part",
        ),
        ({"model_type": "deepseek_v3"}, "is 'deepseek_v3'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised checkpoint"),
    ],
)
def test_what_cannot_be_balanced_is_refused_by_name(tiny_model, text, tmp_path, capsys, config, hint):
    source = tmp_path / "other"
    shutil.copytree(tiny_model("llama"), source)
    old = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(old | config))
    assert main(["balance", str(source), str(tmp_path / "out"), "--text", str(text)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sage-eval: error")]
    assert hint in line
    assert not (tmp_path / "out").exists()


def test_too_little_text_is_one_line(tiny_model, tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("word " * 150)
    assert main(["balance", str(tiny_model("llama")), str(tmp_path / "out"), "--text", str(short)]) == 2
    assert "tokens of calibration text: at least 128" in capsys.readouterr().err


def test_the_command_prints_every_layer_before_and_after(outliers, text, tmp_path, capsys):
    target = tmp_path / "balanced"
    assert main(["balance", str(outliers("qwen2")), str(target), "--text", str(text), "--tokens", "256"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")][2:] == ["| 0", "| 1", "| mean"]
    assert f"sage-eval compare {target}" in err


def test_a_dead_channel_keeps_its_scale(tiny_model, text):
    seen = []
    run(load_model(tiny_model("llama")), IDS[0].tolist(), seen.append)
    layer = seen[0]._replace(k=seen[0].k.clone(), q=100 * seen[0].q)
    layer.k[:, 0, 5] = 0
    layer.k[:, 1] = 0
    t = choose(layer)
    assert t[0, 5] == 1
    assert t[1].eq(1).all()
    assert t.isfinite().all()
