"""The command in this process, run folders to work on, and a small model folder."""

import shutil
from pathlib import Path

import pytest

from sage_eval.cli import main
from tests.cli.values import STORED


@pytest.fixture
def call(capsys):
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_folder(tmp_path):
    return Path(shutil.copytree(STORED, tmp_path / "run"))


@pytest.fixture
def calibrated(tmp_path):
    return Path(shutil.copytree(STORED.with_name("schema_1_calibrated"), tmp_path / "calibrated"))


@pytest.fixture(scope="session")
def wordy(tmp_path_factory):
    """A model folder with a word tokenizer, which knows an end of text or does not."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    def make(eos: bool) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "A": 2}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"eos_token": "</s>"} if eos else {}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special).save_pretrained(folder)
        config = LlamaConfig(
            vocab_size=3, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, architectures=["LlamaForCausalLM"], dtype="float32",
        )  # fmt: skip
        config.save_pretrained(folder)
        save_file({}, folder / "model.safetensors")
        return folder

    return make
