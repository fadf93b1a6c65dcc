"""How `attend` is cut up on each GPU.

The choice depends on the architecture, head_dim, group size and V's type, never on a length or on the batch: a
sequence's bits would depend on its batch-mates otherwise. `LOG.md` says what the sm_90 entries were measured against;
the others are conservative choices that compile, not tuned.
"""

from typing import Literal, NamedTuple


class Tile(NamedTuple):
    """Launch options of `attend`: keys a step, warps, pipeline stages, registers a thread (0: any), and the source."""

    keys: int
    warps: int
    stages: int
    registers: int = 0
    kernel: Literal["triton", "gluon"] = "triton"


_TABLE = {
    # (architecture, padded head_dim, FP8 V): tile
    (90, 64, False): Tile(64, 8, 3),
    (90, 128, False): Tile(128, 4, 2, kernel="gluon"),
    (90, 64, True): Tile(64, 4, 4, kernel="gluon"),
    (90, 128, True): Tile(64, 4, 4, kernel="gluon"),
}
_SMALL = {64: Tile(64, 4, 3), 128: Tile(64, 8, 2)}


def choose_tile(architecture: int, padded_dim: int, group: int, fp8: bool) -> Tile:
    """The tile for an architecture such as 90 for sm_90, head_dim rounded up to 64 or 128, and queries a KV head."""
    del group  # no entry depends on it yet
    return _TABLE.get((architecture, padded_dim, fp8), _SMALL[padded_dim])
