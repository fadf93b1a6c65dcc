"""Vectors of a model that its keys are quantised with: one per layer and KV head, the same for every sequence.

The shift is what `smooth_k=static` subtracts from K. No token of the sequence takes part in it, so the codes of a key
block depend on that block alone: chunks, prefixes and batches change no bit. The balance is what K is divided by and Q
multiplied by. `sage-eval calibrate MODEL` writes both: safetensors files with a float32 tensor of shape [KV heads of
the whole model, head_dim] for each layer, `layers.{i}` for a shift and `balance.{i}` for a balance.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import DataError, PrerequisiteError

NAMES = {"shift": "layers", "balance": "balance"}
"""The setting that names a file, and what the names of the file's tensors begin with."""


def vectors_for(runner: Any, settings: AttentionSettings) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The rank's shift and its balance by layer, for SGLang's `ModelRunner` `runner`; empty where none is set.

    Raises `UsageError` for settings that do not go together, and what `load` raises.
    """
    settings.check()
    shift = settings.shift if settings.smooth_k == "static" else None
    return _of_rank(runner, "shift", shift), _of_rank(runner, "balance", settings.balance)


def _of_rank(runner: Any, setting: str, path: Path | None) -> dict[int, Tensor]:
    if path is None:
        return {}
    from sglang.srt.runtime_context import get_parallel

    pool, config, parallel = runner.token_to_kv_pool, runner.model_config, get_parallel()
    first, end = pool.start_layer, pool.start_layer + pool.layer_num
    whole = load(setting, path, None if parallel.pp_size > 1 else end, config.get_num_kv_heads(1), config.head_dim)
    if end > len(whole):
        raise DataError(f"{path} has {len(whole)} layers, but this rank serves layers {first} to {end - 1}")
    return {
        i: heads_of_rank(whole[i], parallel.attn_tp_rank, parallel.attn_tp_size).to(runner.device)
        for i in range(first, end)
    }


def load(setting: str, path: Path, layers: int | None, kv_heads: int, head_dim: int) -> list[Tensor]:
    """The tensors of the file that `setting` (shift or balance) names, one [kv_heads, head_dim] per layer.

    `layers` is how many the model has (None: any number). Raises `PrerequisiteError` where there is no such file, and
    `DataError` for one that is not of this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    how = f"write one with `sage-eval calibrate MODEL --{'output' if setting == 'shift' else setting} FILE`"
    if not path.is_file():
        raise PrerequisiteError(f"{setting}={path}: there is no such file; {how}")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{setting}={path} is not a safetensors file ({error}); {how}") from None
    names = [f"{NAMES[setting]}.{i}" for i in range(len(found) if layers is None else layers)]
    if set(found) != set(names):
        raise DataError(
            f"{setting}={path} has {len(found)} tensors ({', '.join(sorted(found)[:3])} …), but the model's layers are "
            f"{names[0]} to {names[-1]}: it is another model's or another setting's; {how}"
        )
    for name in names:
        if found[name].shape != (kv_heads, head_dim) or found[name].dtype != torch.float32:
            raise DataError(
                f"{setting}={path}: {name} is {found[name].dtype} {list(found[name].shape)}, but the model has "
                f"[{kv_heads}, {head_dim}] (KV heads, head_dim) in float32: it is another model's; {how}"
            )
        if not found[name].isfinite().all() or (setting == "balance" and not (found[name] > 0).all()):
            raise DataError(f"{setting}={path}: {name} is not finite{' and positive' * (setting == 'balance')}; {how}")
    return [found[name] for name in names]


def heads_of_rank(whole: Tensor, rank: int, size: int) -> Tensor:
    """The KV heads that tensor-parallel rank `rank` of `size` holds, as SGLang deals them out.

    Ranks in excess of the heads share them in runs of neighbours.
    """
    heads = len(whole)
    count = max(1, heads // size)
    first = rank // max(1, size // heads) * count
    return whole[first : first + count].contiguous()
