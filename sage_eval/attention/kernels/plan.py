"""Where each sequence of a batch lies, and which program computes what: one small table, built on the host.

The host knows every length before a prefill starts, so the table costs one copy to the device and no synchronisation.
Nothing in it changes a result: tiles are only ordered so that the longest start first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

QUERY_BLOCK = 128
KEY_BLOCK = 64
CHUNKS = 32  # the most chunks into which a sequence's keys are cut for their sums, which every tile then adds up
STEP = 64  # a chunk is a multiple of so many keys
SLOT_ALIGNMENT = 128  # scratch slots of a sequence start here, so that no tile reaches into another sequence


@dataclass(frozen=True)
class Plan:
    """The layout of one prefill batch. All tables are int32 on the device.

    `sequences` has a row a sequence: first query row, new tokens, prefix tokens, first entry in kv_indices, first
    scratch slot, first chunk. `query_tiles`, `key_tiles` and `chunks` have rows (sequence, first position); those of
    `query_tiles` go on with the sequence's row, so that a program learns all it needs from one load. In `layers`
    `paged_attention` keeps what the layers of the batch have in common, memory among it: clear it after the last one.
    """

    sequences: Tensor
    query_tiles: Tensor
    key_tiles: Tensor
    chunks: Tensor
    slots: int
    layers: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


def make_plan(
    prefixes: Sequence[int], news: Sequence[int], device: torch.device | str, served: Sequence[bool] | None = None
) -> Plan:
    """The plan for sequences with `prefixes[i]` cached and `news[i]` new tokens, in batch order.

    Sequences for which `served` is False, or that have no new token, get no work; their places are kept.
    """
    prefix, new = np.asarray(prefixes, np.int64), np.asarray(news, np.int64)
    active = (new > 0) if served is None else (new > 0) & np.asarray(served, bool)
    length = np.where(active, prefix + new, 0)
    slots = -(-length // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
    chunk = np.maximum(-(-length // (CHUNKS * STEP)) * STEP, 1)
    chunks = -(-length // chunk)
    table = np.stack([_starts(new), new, prefix, _starts(prefix), _starts(slots), _starts(chunks)], 1)

    query_tiles = _tiles(np.where(active, new, 0), QUERY_BLOCK)
    last_key = prefix[query_tiles[:, 0]] + query_tiles[:, 1]
    query_tiles = query_tiles[np.argsort(-last_key, kind="stable")]
    query_tiles = np.concatenate([query_tiles, table[query_tiles[:, 0]]], 1)
    parts = [table, query_tiles, _tiles(slots, KEY_BLOCK), _tiles(length, chunk)]
    flat = torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(np.int32))
    if torch.device(device).type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)
    pieces = torch.split(flat, [part.size for part in parts])
    sequences, query, key, sums = (piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))
    return Plan(sequences, query, key, sums, slots=int(slots.sum()))


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.asarray(np.cumsum(sizes) - sizes)


def _tiles(sizes: np.ndarray, block: int | np.ndarray) -> np.ndarray:
    """(sequence, first position) of each block of each sequence; `block` is one size, or one a sequence."""
    block = np.broadcast_to(block, sizes.shape)
    counts = -(-sizes // block)
    sequence = np.repeat(np.arange(len(sizes)), counts)
    return np.stack([sequence, (np.arange(counts.sum()) - _starts(counts)[sequence]) * block[sequence]], 1)
