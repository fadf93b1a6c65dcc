"""One prompt's distributions on disk, between the scheduler process that writes them and the parent that reads them.

A row is one position: the log-probabilities of the whole vocabulary as uint16 over 16 nats, and in full precision
what must be exact. `BEYOND` stands for all ids less probable than e⁻¹⁶; what they hold together is the row's `tail`.
"""

from pathlib import Path
from typing import Any

import numpy as np

NATS = 16.0
BEYOND = 65_535
STEP = NATS / (BEYOND - 1)
"""Nats between two codes, 2.4e-4: a log-probability is off by at most half of it, 1.2e-4."""
FAILURE = "failure"

Rows = np.memmap[Any, np.dtype[np.void]]


def row_type(vocabulary: int) -> np.dtype[np.void]:
    """`true`: log-probability of the true token, nats; `top`: most probable id; `tail`: probability; `codes`."""
    return np.dtype([
        ("place", "<i4"), ("top", "<i4"), ("true", "<f4"), ("tail", "<f4"), ("codes", "<u2", (vocabulary,)),
    ])  # fmt: skip


def chunk_path(folder: Path, rid: str) -> Path:
    """Where the rows of request `rid` are."""
    return folder / f"{rid}.rows"


def read(path: Path, vocabulary: int) -> Rows:
    """The rows in `path`, memory-mapped. `ValueError` for a file that is no whole number of rows."""
    return np.memmap(path, dtype=row_type(vocabulary), mode="r")
