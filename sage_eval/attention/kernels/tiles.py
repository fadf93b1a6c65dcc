"""How `attend` is cut up on each GPU.

The choice depends on the architecture and head_dim, never on a length or on the batch: a sequence's bits would depend
on its batch-mates otherwise. `LOG.md` says what the sm_90 entries were measured against; the others are conservative
choices that compile, not tuned.
"""

from typing import Literal, NamedTuple


class Tile(NamedTuple):
    """Launch options of `attend`: warps, pipeline stages, registers a thread (0: any), and the source."""

    warps: int
    stages: int
    registers: int = 0
    kernel: Literal["triton", "gluon"] = "triton"


_TABLE = {
    # (architecture, padded head_dim): tile
    (90, 64): Tile(4, 1, 128, "gluon"),
    (90, 128): Tile(4, 1, 168, "gluon"),
}
_SMALL = {64: Tile(4, 3), 128: Tile(8, 2)}


def choose_tile(architecture: int, padded_dim: int) -> Tile:
    """The tile for an architecture such as 90 for sm_90 and head_dim rounded up to 64 or 128."""
    return _TABLE.get((architecture, padded_dim), _SMALL[padded_dim])
