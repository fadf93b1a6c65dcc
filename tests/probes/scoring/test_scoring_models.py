"""What is done to models so that they can be compared: logits in fp32, and a tokenizer for random weights."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from sage_eval.cli import app
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.probes.scoring import tokenizer
from sage_eval.probes.scoring.columns import _logits_in_fp32


def test_a_transformers_model_gives_logits_in_fp32_and_is_otherwise_what_it_was(reference_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(reference_model, dtype="auto")
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        before = model(ids, output_hidden_states=True)
        _logits_in_fp32(model)
        after = model(ids, output_hidden_states=True)
    assert (before.logits.dtype, after.logits.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(before.hidden_states[-1], after.hidden_states[-1])
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    exact = after.hidden_states[-1].double() @ model.get_input_embeddings().weight.double().T
    assert (after.logits - exact).abs().max() < 1e-4 < (before.logits - exact).abs().max()


def config_of(folder, vocabulary):
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocabulary, "model_type": "llama"}))
    return folder


def test_a_tokenizer_is_lent_to_random_weights(reference_model, tmp_path):
    from transformers import AutoTokenizer

    assert not tokenizer.present(config_of(tmp_path, 128_256))
    tokenizer.lend(str(reference_model), tmp_path)
    assert tokenizer.present(tmp_path)
    lent, own = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path, reference_model))
    assert lent.encode("A quiet harbour.") == own.encode("A quiet harbour.")


def test_a_tokenizer_must_fit_and_be_there(reference_model, tmp_path):
    with pytest.raises(UsageError, match="the model only 100"):
        tokenizer.lend(str(reference_model), config_of(tmp_path, 100))
    with pytest.raises(PrerequisiteError, match="--tokenizer /nowhere"):
        tokenizer.lend("/nowhere", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "llama-3.1-8b", "--parts", "evaluation"], "llama-3.1-8b has no tokenizer"),
        (["MODEL", "--tokenizer", "MODEL"], "--tokenizer is for --shape"),
    ],
)
def test_the_command_says_where_a_tokenizer_belongs(arguments, said, reference_model, tmp_path):
    given = [str(reference_model) if argument == "MODEL" else argument for argument in arguments]
    options = ["--arms", "torch_native", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, ["bench", "scoring", *given, *options])
    assert said in str(result.exception)


@pytest.mark.parametrize(("file", "parts"), [("tokenizer.json", "evaluation,rate,client"), (None, "rate,client")])
def test_without_a_tokenizer_only_what_needs_none_is_measured(reference_model, tmp_path, monkeypatch, file, parts):
    shutil.copy(reference_model / "config.json", tmp_path)
    if file:
        shutil.copy(reference_model / file, tmp_path)
    plans = []
    monkeypatch.setattr("sage_eval.probes.scoring.run.bench", lambda plan, *_, **__: plans.append(plan) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app(["bench", "scoring", str(tmp_path), "--arms", "torch_native"])
    assert plans[0].parts == parts.split(",")
    assert plans[0].dummy
