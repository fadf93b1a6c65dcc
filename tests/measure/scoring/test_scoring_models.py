"""What makes models comparable: logits in fp32, windows of one length, a tokenizer for random weights; bad values."""

import json

import pytest
import torch

from sage_eval.cli import main
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.measure.scoring.instrument import ScoringPlan
from sage_eval.measure.scoring.models import add_tokenizer, has_tokenizer, lm_arguments, logits_in_fp32


def test_transformers_model_gives_logits_in_fp32_and_is_otherwise_unchanged(reference_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(reference_model, dtype="auto")
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        before = model(ids, output_hidden_states=True)
        logits_in_fp32(model)
        after = model(ids, output_hidden_states=True)
    assert (before.logits.dtype, after.logits.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(before.hidden_states[-1], after.hidden_states[-1])
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    exact = after.hidden_states[-1].double() @ model.get_input_embeddings().weight.double().T
    assert (after.logits - exact).abs().max() < 1e-4 < (before.logits - exact).abs().max()


def config_of(folder, vocabulary):
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocabulary, "model_type": "llama"}))
    return folder


def test_tokenizer_is_added_to_random_weights(reference_model, tmp_path):
    from transformers import AutoTokenizer

    assert not has_tokenizer(config_of(tmp_path, 128_256))
    add_tokenizer(str(reference_model), tmp_path)
    assert has_tokenizer(tmp_path)
    added, own = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path, reference_model))
    assert added.encode("A quiet harbour.") == own.encode("A quiet harbour.")


def test_tokenizer_must_fit_and_be_there(reference_model, tmp_path):
    with pytest.raises(UsageError, match="the model only 100"):
        add_tokenizer(str(reference_model), config_of(tmp_path, 100))
    with pytest.raises(PrerequisiteError, match="--tokenizer /nowhere"):
        add_tokenizer("/nowhere", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "llama-3.1-8b", "--parts", "evaluation"], "llama-3.1-8b has no tokenizer"),
        (["MODEL", "--tokenizer", "MODEL"], "--tokenizer is for --shape"),
    ],
)
def test_command_says_where_a_tokenizer_belongs(arguments, said, reference_model, tmp_path, capsys):
    given = [str(reference_model) if argument == "MODEL" else argument for argument in arguments]
    assert main(["bench", "scoring", *given, "--arms", "torch_native", "--output", str(tmp_path)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("files", "parts"), [(["tokenizer.json"], ("evaluation", "rate", "client")), ([], ("rate", "client"))]
)
def test_without_a_tokenizer_only_what_needs_none_is_measured(tmp_path, files, parts):
    for file in files:
        (tmp_path / file).touch()
    assert ScoringPlan(model=str(tmp_path)).parts_for(tmp_path) == parts


def test_all_models_score_windows_of_the_same_length():
    def longest(name, key):
        return lm_arguments(name, "m", 100, {"attention_backend": "fa3"}, {"dtype": "float32"})[key]

    assert [longest("sglang-sage:fidelity", "max_length"), longest("hf", "max_length")] == [100, 100]
    assert [longest("sglang", "max_model_len"), longest("vllm", "max_model_len")] == [101, 102]
    assert {longest(name, "dtype") for name in ("sglang-sage:throughput", "sglang", "vllm", "hf")} == {"float32"}


@pytest.mark.parametrize(("options", "said"), [
    (["--parts", "client,speed"], "--parts 'speed': Input should be 'evaluation', 'rate' or 'client'"),
    (["--models", "hf,lama"], "--models 'lama'"),
    (["--tasks", "sage_mmlu"], "'sage_mmlu' is not of the form name=value"),
    (["--tasks", "sage_mmlu=0"], "--tasks sage_mmlu=0: Input should be greater than 0"),
    (["--requests", "10k"], "--requests '10k'"),
    (["--baseline", "sglang", "--models", "hf"], "--baseline sglang is none of the models hf"),
])  # fmt: skip
def test_bad_value_is_named_before_anything_starts(reference_model, tmp_path, capsys, options, said):
    assert main(["bench", "scoring", str(reference_model), "--output", str(tmp_path), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
