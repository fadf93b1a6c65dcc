"""The shift of K that `smooth_k=static` subtracts: one vector a layer and KV head, the same for every sequence.

It is made once per model (`sage-eval calibrate MODEL`) and read from a safetensors file that holds a float32 tensor
`layers.{i}` of shape [KV heads of the whole model, head_dim] for each layer. A shift that no token of the sequence
takes part in makes the codes of a key block depend on that block alone: chunks, prefixes and batches change no bit.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import DataError, PrerequisiteError

HOW = "write one with `sage-eval calibrate MODEL`"


def shifts_for(runner: Any, settings: AttentionSettings) -> dict[int, Tensor]:
    """The rank's shift by layer, for SGLang's `ModelRunner` `runner`; empty unless `smooth_k=static`.

    Raises `UsageError` where no file was named, and what `load_shifts` raises.
    """
    settings.check()
    if settings.smooth_k != "static" or settings.shift is None:
        return {}
    pool, config, parallel = runner.token_to_kv_pool, runner.model_config, runner.ps
    first, end = pool.start_layer, pool.start_layer + pool.layer_num
    whole = load_shifts(
        settings.shift, None if parallel.pp_size > 1 else end, config.get_num_kv_heads(1), config.head_dim
    )
    if end > len(whole):
        raise DataError(f"{settings.shift} has {len(whole)} layers, but this rank serves layers {first} to {end - 1}")
    return {
        i: heads_of_rank(whole[i], parallel.attn_tp_rank, parallel.attn_tp_size).to(runner.device)
        for i in range(first, end)
    }


def load_shifts(path: Path, layers: int | None, kv_heads: int, head_dim: int) -> list[Tensor]:
    """The tensors of the file, one [kv_heads, head_dim] a layer, for a model of `layers` layers (None: any number).

    Raises `PrerequisiteError` where there is no such file, and `DataError` for one that is not of this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise PrerequisiteError(f"shift={path}: there is no such file; {HOW}")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise DataError(f"shift={path} is not a safetensors file ({error}); {HOW}") from None
    names = [f"layers.{i}" for i in range(len(found) if layers is None else layers)]
    if set(found) != set(names):
        raise DataError(
            f"shift={path} has {len(found)} tensors ({', '.join(sorted(found)[:3])} …), but the model's layers are "
            f"{names[0]} to {names[-1]}: it is another model's; {HOW}"
        )
    for name in names:
        if found[name].shape != (kv_heads, head_dim) or found[name].dtype != torch.float32:
            raise DataError(
                f"shift={path}: {name} is {found[name].dtype} {list(found[name].shape)}, but the model has "
                f"[{kv_heads}, {head_dim}] (KV heads, head_dim) in float32: it is another model's; {HOW}"
            )
        if not found[name].isfinite().all():
            raise DataError(f"shift={path}: {name} is not finite; {HOW}")
    return [found[name] for name in names]


def heads_of_rank(shift: Tensor, rank: int, size: int) -> Tensor:
    """The KV heads that tensor-parallel rank `rank` of `size` holds, as SGLang deals them out.

    Ranks in excess of the heads share them in runs of neighbours.
    """
    heads = len(shift)
    count = max(1, heads // size)
    first = rank // max(1, size // heads) * count
    return shift[first : first + count].contiguous()
