"""A copy of a checkpoint with some rows of Q's and K's weights scaled: same files, same shards, same dtype.

It is written into a folder beside the final one, proven there, and renamed; `stress.json` in it says what was done.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sage_eval.calibrate.layouts import Shape, apply
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.runs.files import write_json

RECORD = "stress.json"
_INDEX = "model.safetensors.index.json"
_COPIED = (".json", ".model", ".txt", ".jinja")


class Stress(BaseModel):
    """`stress.json`. `pairs` are channels of K: by layer and KV head the two of each pair that was scaled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    scale: int
    reference_scale: float
    source_sha256: str
    model_type: str
    pairs: list[list[list[tuple[int, int]]]]
    text: str


def read(folder: Path) -> Stress | None:
    """What the finished checkpoint in `folder` is; None where there is none, or some of its weights are gone."""
    try:
        found = Stress.model_validate_json((folder / RECORD).read_bytes())
        return found if all((folder / name).is_file() for name in weight_files(folder)) else None
    except (OSError, ValidationError):
        return None


def complete(folder: Path, scale: int, source_sha256: str) -> bool:
    """Whether `folder` holds the finished checkpoint of this scale and source, chosen on whatever text."""
    found = read(folder)
    return found is not None and (found.scale, found.source_sha256) == (scale, source_sha256)


def weight_files(folder: Path) -> list[str]:
    """The safetensors files that hold the weights, by the index where there is one."""
    if (folder / _INDEX).is_file():
        return sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    return ["model.safetensors"]


def write(
    source: Path,
    target: Path,
    shape: Shape,
    pairs: list[list[list[int]]],
    record: Stress,
    prove: Callable[[Path], None],
) -> None:
    """Write `target`: `source` with the rows of `pairs` scaled by `record.scale`. `prove` sees it first, and may raise.

    Replaces another stressed checkpoint; `UsageError` where the folder is something else, or the weights do not have
    the names or the dtype that they must have.
    """
    if target.exists() and not (target / RECORD).is_file():
        raise UsageError(f"{target} is not a stressed checkpoint, so it is not replaced: choose another --output")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _scale(source, partial, shape.weight_factors(pairs, record.scale))
        for path in source.iterdir():
            if path.is_file() and path.suffix in _COPIED and not path.name.endswith(".bin.index.json"):
                shutil.copyfile(path, partial / path.name)
        prove(partial)
        write_json(partial / RECORD, record.model_dump(mode="json"))
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except OSError as error:
        raise PrerequisiteError(f"cannot write {target}: {error.strerror}; it needs room for the whole model") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _scale(source: Path, target: Path, factors: dict[str, Any]) -> None:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    done: set[str] = set()
    for name in weight_files(source):
        if not (source / name).is_file():
            raise DataError(f"{source / name} is missing: outlier stress reads safetensors checkpoints")
        try:
            with safe_open(source / name, "pt") as file:
                metadata = file.metadata()
            tensors = load_file(source / name)
        except SafetensorError as error:
            raise DataError(f"{source / name} is damaged: {error}") from None
        done.update(apply(tensors, factors))
        save_file(tensors, target / name, metadata)
        (target / name).chmod(0o644)
    # A bias is scaled where there is one.
    if missing := [name for name in factors if name not in done and not name.endswith(".bias")]:
        raise UsageError(f"{source} has no {missing[0]}: its weights are not laid out as its config.json says")
