"""What is refused before the first arm, by a run and by its dry run alike."""

import json
import shutil
from pathlib import Path

import pytest

from sage_eval.compare import run as runner
from sage_eval.compare.plan import plan
from sage_eval.compare.run import compare
from sage_eval.errors import PrerequisiteError, SageEvalError, UsageError
from sage_eval.plugins import activate_cpu_platform
from tests.compare.values import in_this_process

on_a_plain_host = pytest.mark.skipif(activate_cpu_platform() is None, reason="about a host without a GPU")


@pytest.fixture
def shaped(reference_model, tmp_path):
    """`shaped(**fields)`: the bundled model with these fields in its configuration."""
    folder = tmp_path / "model"
    shutil.copytree(reference_model, folder)

    def make(**fields):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return str(folder)

    return make


def nothing_runs(*_):
    raise AssertionError("an arm was started")


REFUSED = {
    "an unknown candidate": ({"candidate": "sage_atn"}, {}, "attention_backend='sage_atn' is unknown; did you mean"),
    "a head size": ({}, {"head_dim": 80}, "head_dim=80"),
    "a large head size": ({}, {"head_dim": 256}, "head_dim=256"),
    "latent attention": ({}, {"kv_lora_rank": 512}, "attention_arch=MLA"),
    "a soft-cap": ({}, {"attn_logit_softcapping": 50.0}, "logit_cap=50.0"),
    "sliding windows": ({}, {"layer_types": ["sliding_attention", "full_attention"] * 4}, "sliding windows need"),
    "an engine argument": ({"model_args": {"kv_cache_dtype": "fp8_e5m2"}}, {}, "kv_cache_dtype=fp8_e5m2"),
    "a shorter vocabulary": ({}, {"vocab_size": 100}, "the model has 100 embeddings"),
    "a baseline for GPUs": ({"baseline": "fa3"}, {}, "arm baseline: attention_backend=fa3 needs a GPU"),
    "a decode backend": ({"candidate": "sage_attn+triton"}, {}, "arm candidate: decode_attention_backend=triton needs"),
    "an argument for GPUs": ({"model_args": {"attention_backend": "triton"}}, {}, "=triton needs a GPU"),
    "a kernel for GPUs": ({"attention": {"kernel": "paged"}}, {}, "kernel=paged needs a CUDA GPU"),
    "a gate": ({"min": {"sage_mmlu": 0.6}}, {}, r"--min sage_mmlu=0.6: not among the tasks of this run \(tiny_choice"),
    "a margin": ({"margin": {"tiny_chioce": 0.1}}, {}, "--margin tiny_chioce=0.1: neither .*did you mean tiny_choice"),
}


@on_a_plain_host
@pytest.mark.parametrize("asked", [compare, plan], ids=["run", "dry run"])
@pytest.mark.parametrize(("values", "fields", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_known_is_refused_before_the_first_arm(
    tiny, shaped, tmp_path, monkeypatch, asked, values, fields, message
):
    monkeypatch.setattr(runner, "_job", nothing_runs)
    config = tiny(model=shaped(**fields), lm="sglang-sage", output=tmp_path / "run", **values)
    with pytest.raises(SageEvalError, match=message) as caught:
        asked(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@on_a_plain_host
def test_weights_that_are_cut_short_are_refused_by_a_dry_run(tiny, shaped):
    folder = shaped()
    weights = sorted(Path(folder).glob("*.safetensors"))[-1]
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SageEvalError, match=r"arm baseline: .*safetensors is no safetensors file, or is cut short"):
        plan(tiny(model=folder, lm="sglang-sage"))


def test_a_refused_fresh_run_keeps_the_old_one(tiny, run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    with pytest.raises(UsageError, match="--min nothing=1"):
        compare(tiny(output=folder, min={"nothing": 1.0}), fresh=True)
    assert (folder / "arms/candidate/arm.json").exists()


def test_a_gate_on_nothing_is_refused_after_the_run_as_well(tiny, run, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", nothing_runs)
    folder = shutil.copytree(run.folder, tmp_path / "run")
    with pytest.raises(UsageError, match="--min nothing=1"):
        compare(tiny(output=folder, min={"nothing": 1.0}))
    before = (folder / "manifest.json").read_text()
    with pytest.raises(UsageError, match="--margin nothing=1"):
        compare(tiny(output=folder, margin={"nothing": 1.0}))
    assert (folder / "manifest.json").read_text() == before


def test_names_of_tasks_groups_metrics_and_kinds_are_taken(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", in_this_process)
    margin = {"tiny_choice": 0.1, "acc": 0.1, "accuracy": 0.1, "log_perplexity": 0.1, "word_perplexity": 0.1}
    found = compare(tiny(output=tmp_path / "run", min={"tiny_choice": 0.0}, margin=margin))
    assert found.comparison.gates[0].passed


def test_the_package_is_missed_before_the_first_arm(tiny, shaped, monkeypatch):
    with pytest.raises((UsageError, PrerequisiteError), match="kernel=package needs"):
        compare(tiny(model=shaped(), lm="sglang-sage", attention={"kernel": "package"}))
