"""Shapes of models: enough of a configuration to serve random weights, and to say what they will take.

Speed does not depend on what the weights are, only on their shape, so a benchmark needs no download.
"""

from pathlib import Path
from typing import Any

from sage_eval.errors import DataError, UsageError
from sage_eval.store.files import read_json, write_json

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "rope_theta": 500000.0,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-3.1-70b": _LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
"""Published shapes. Rope scaling is left out: it changes the angles, not the work."""


WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
"""A model folder without any of these is served with random weights."""


def write_shape(name: str, folder: Path) -> Path:
    """Write `config.json` of the shape `name` into `folder`, which is a model folder then, without weights."""
    if name not in SHAPES:
        raise UsageError(f"shape {name!r} is unknown; known: {', '.join(SHAPES)}")
    write_json(folder / "config.json", SHAPES[name])
    return folder


def describe(folder: Path) -> dict[str, Any]:
    """Sizes of the model in `folder`, and what weights and cache take, in bytes, where it is a dense Llama-like one."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise DataError(f"{folder}/config.json is no model configuration")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    found: dict[str, Any] = {"architecture": (config.get("architectures") or [None])[0]}
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        found["weights"] = "random"
    config = config.get("text_config", config)
    found |= {name: int(config[name]) for name in ("max_position_embeddings", "vocab_size") if config.get(name)}
    if any(config.get(name) is None for name in names):
        return found
    hidden, intermediate, layers, heads, vocabulary = (int(config[name]) for name in names)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    dim = int(config.get("head_dim") or hidden // heads)
    found |= {name: int(config[name]) for name in names} | {"num_key_value_heads": kv_heads, "head_dim": dim}
    width = 4 if config.get("torch_dtype", config.get("dtype")) == "float32" else 2
    if config.get("kv_lora_rank") is None:  # which is another cache
        found["kv_bytes_per_token"] = width * 2 * layers * kv_heads * dim
    if any("expert" in name for name in config):
        return found
    attention = hidden * dim * (2 * heads + 2 * kv_heads)
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return found | {"weight_bytes": width * (layers * (attention + 3 * hidden * intermediate) + embeddings)}


def vocabulary(sizes: dict[str, Any]) -> int:
    """Token ids to draw from."""
    if "vocab_size" not in sizes:
        raise UsageError("the model's config.json has no vocab_size: a language model is needed")
    return int(sizes["vocab_size"])
