"""The kernels and the cases that they are timed on, and the least time that a GPU allows. Imports nothing heavy."""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

HEADS, KV_HEADS = 32, 8
OURS = {"int8-fp16": "bf16", "int8-fp8": "fp8"}
"""Columns of our kernels, and the GPU's rate that bounds their P·V."""
BALANCED = {f"{name}-balance": name for name in OURS}
"""The same with factors per channel and KV head."""
EXACT = {"fa3-paged": "fa3", "flashinfer": "flashinfer", "triton-extend": "triton"}
"""Columns of exact kernels as SGLang calls them, and their backends; the first that was timed is the rival."""
KERNELS = (*OURS, *BALANCED, "quantise", "package", "triton-extend", "fa3", "fa3-paged", "flashinfer", "cudnn", "fa2")
"""All columns; see `columns.COLUMNS`."""


class Case(NamedTuple):
    """`batch` sequences of `new` tokens after `prefix` cached ones."""

    new: int
    prefix: int
    batch: int
    dim: int

    @classmethod
    def named(cls, name: str) -> Self:
        """The case of a name, as `d128 4x4096` or `d64 1x4096+16384`. `ValueError` where it is none."""
        if not (match := re.fullmatch(r"d(\d+) (\d+)x(\d+)(?:\+(\d+))?", name)):
            raise ValueError(f"{name!r} is no case")
        dim, batch, new, prefix = (int(part or 0) for part in match.groups())
        return cls(new, prefix, batch, dim)

    @property
    def name(self) -> str:
        prefix = f"+{self.prefix}" if self.prefix else ""
        return f"d{self.dim} {self.batch}x{self.new}{prefix}"

    @property
    def flops(self) -> float:
        """Two products of 2 · D operations for each pair of a query and a key it sees."""
        pairs = self.new * self.prefix + self.new * (self.new + 1) / 2
        return 4.0 * self.dim * HEADS * self.batch * pairs

    def limit_ms(self, limits: Mapping[str, float], second: str) -> float:
        """The least time the measured rates allow: Q·K at INT8 and P·V at `second`, or exp2 where that is longer.

        INT8 and FP8 share a rate in hardware, and torch's INT8 product stays far below it: the better of the two
        counts.
        """
        half = self.flops / 2 / 1e9
        matrix = half / max(limits["int8"], limits["fp8"]) + half / limits[second]
        return max(matrix, self.flops / (4 * self.dim) / 1e9 / limits["exp2"])


# The cases that matter most come first, since a budget cuts the end off.
CASES = [
    *(Case(n, 0, max(1, 16384 // n), 128) for n in (4096, 32768, 1024)),
    Case(4096, 16384, 1, 128),
    *(Case(n, 0, max(1, 16384 // n), 64) for n in (4096, 32768)),
    *(Case(n, 0, max(1, 16384 // n), d) for d in (128, 64) for n in (512, 2048, 8192, 16384)),
    *(Case(n, 0, 1, 128) for n in (1024, 4096)),
    Case(1024, 0, 16, 64),
    Case(4096, 16384, 1, 64),
    *(Case(131072, 0, 1, d) for d in (128, 64)),
]
