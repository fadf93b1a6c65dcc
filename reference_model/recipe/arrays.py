"""Token arrays on disk."""

import lzma
from pathlib import Path

import numpy as np

from reference_model.recipe.tokenizer import Ids


def write_array(path: Path, ids: Ids) -> None:
    """A token array as little-endian 16-bit numbers in xz, its filter told of the two-byte step."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 26, "lc": 0, "lp": 1, "pb": 1}]
    path.write_bytes(lzma.compress(ids.astype("<u2").tobytes(), format=lzma.FORMAT_XZ, filters=filters))


def read_array(path: Path) -> Ids:
    """The array of `write_array`."""
    return np.frombuffer(lzma.decompress(path.read_bytes()), "<u2")
