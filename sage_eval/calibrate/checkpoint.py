"""A copy of a checkpoint with some rows of Q's and K's weights scaled: same files, same shards, same dtype.

The copy is made file by file in a folder beside the final one, proven there, and renamed; a record in it says what was
done.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_eval.calibrate.layouts import scaled
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.store.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

_INDEX = "model.safetensors.index.json"
_COPIED = (".json", ".model", ".txt", ".jinja")


def weight_files(folder: Path) -> list[str]:
    """The safetensors files that hold the weights, by the index where there is one."""
    if (folder / _INDEX).is_file():
        return sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    return ["model.safetensors"]


def write(
    source: Path,
    target: Path,
    factors: "Mapping[str, Tensor]",
    record: tuple[str, Any],
    prove: Callable[[Path], None],
    card: str = "",
) -> None:
    """Write `target`: `source` with the rows of the tensors that `factors` names multiplied by them.

    `record` is the name and the content of the JSON file that marks such a folder; another of the same mark is
    replaced. `prove` sees the copy first, and may raise. `card` becomes its README.md.

    `UsageError` where the folder is something else, or the weights do not have the names or the dtype that they must
    have; `PrerequisiteError` where they cannot be written.
    """
    name, content = record
    if target.exists() and not (target / name).is_file():
        raise UsageError(f"{target} exists and has no {name}, so it is not replaced: choose another folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _scale(source, partial, factors)
        for path in source.iterdir():
            if path.is_file() and path.suffix in _COPIED and not path.name.endswith(".bin.index.json"):
                shutil.copyfile(path, partial / path.name)
        prove(partial)
        write_json(partial / name, content)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except OSError as error:
        raise PrerequisiteError(f"cannot write {target}: {error.strerror}; it needs room for the whole model") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _scale(source: Path, target: Path, factors: "Mapping[str, Tensor]") -> None:
    done: set[str] = set()
    for name in weight_files(source):
        if not (source / name).is_file():
            raise DataError(f"{source / name} is missing: only safetensors checkpoints can be scaled")
        done.update(_scale_file(source / name, target / name, factors))
    # A bias is scaled where there is one.
    if missing := [name for name in factors if name not in done and not name.endswith(".bias")]:
        raise UsageError(f"{source} has no {missing[0]}: its weights are not laid out as its config.json says")


def _scale_file(source: Path, target: Path, factors: "Mapping[str, Tensor]") -> "Collection[str]":
    """Write one safetensors file with its tensors scaled; their names."""
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    try:
        with safe_open(source, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{source.name} is damaged: {error}") from None
    found = tensors.keys() & factors.keys()
    for name in found:
        if tensors[name].dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise UsageError(f"{name} is {tensors[name].dtype}: a channel can be scaled exactly in 16 or 32 bits only")
        tensors[name] = scaled(name, tensors[name], factors[name])
    target.write_bytes(save(tensors, metadata))
    return found
