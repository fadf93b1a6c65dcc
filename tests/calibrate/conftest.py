"""Tiny random models of each layout, with the bundled tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SIZES = {
    "vocab_size": 8192, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": 100},
    "qwen2": {},
    "qwen3": {},
    "cohere": {"tie_word_embeddings": True},
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """`tiny_model(kind)`: the folder of a random bf16 checkpoint in two shards."""
    made = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("models") / kind
            _write(kind, made[kind])
        return made[kind]

    return folder


def _write(kind: str, folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **MODELS[kind]))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            # Freshly made layers have keys near zero, biases of zero and norms of one: nothing to see.
            if "proj" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.3 if name.endswith("bias") else 0.1))
            elif "norm" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="1MB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ROOT / "reference_model" / name, folder / name)


def with_outliers(source: Path, target: Path, size: float = 40.0) -> Path:
    """A copy whose K is `size` in two pairs of channels of each head, and whose Q is small there."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    channels = [3, 17, 35, 49]
    for path in target.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if "k_proj.bias" in name:
                tensor.view(-1, 64)[:, channels] += size
            elif "q_proj" in name:
                tensor.view(-1, 64, *tensor.shape[1:])[:, channels] /= size
            elif "k_norm" in name:
                tensor[channels] *= size
            elif "q_norm" in name:
                tensor[channels] /= size
        save_file(tensors, path, {"format": "pt"})
    return target


@pytest.fixture
def text(tmp_path) -> Path:
    """A calibration text that every checkout has."""
    path = tmp_path / "text.txt"
    path.write_text((ROOT / "tasks/prose/text.txt").read_text())
    return path


@pytest.fixture
def unsupported(tiny_model, tmp_path) -> Path:
    """A folder whose config names an architecture that is not known."""
    folder = tmp_path / "unknown"
    shutil.copytree(tiny_model("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]})
    )
    return folder
