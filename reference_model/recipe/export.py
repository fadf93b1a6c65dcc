"""Weights and tokenizer → a Hugging Face checkpoint, in shards small enough for any Git host."""

import json
import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from reference_model.recipe.model import Shape
from sage_eval.errors import DataError

SHARD_BYTES = 13_000_000
INDEX = "model.safetensors.index.json"


def write_shards(tensors: dict[str, Tensor], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Safetensors files of at most `limit` bytes (unless one tensor is larger) and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    for name in sorted(tensors, key=_natural):
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > limit:
            shards.append({})
        shards[-1][name] = tensors[name].contiguous()
    for old in folder.glob("model-*.safetensors"):
        old.unlink()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def read_shards(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's shards; `DataError` where the index names a file that is not there."""
    index = folder / INDEX
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [INDEX]
    for file in files:
        if not (folder / file).is_file():
            raise DataError(f"{folder / file} is missing: this is no complete checkpoint, export or copy it again")
    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}


def export(run: Path, tokenizer: Path, out: Path, shape: Shape | None = None) -> None:
    """Write a checkpoint that transformers, SGLang and lm-eval load to `out`.

    Args:
        run: folder with the shards of `train`.
        tokenizer: folder with tokenizer.json and tokenizer_config.json, as `prepare` writes it.
        out: made where it is missing; other files in it stay.
        shape: of the model that was trained.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_shards(read_shards(run), out)
    config = (shape or Shape()).as_config()
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Layer 10 after layer 9."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"\.", name)]
