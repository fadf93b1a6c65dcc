"""How many engines fit on the GPU at once, and which of them are up together."""

from collections.abc import Sequence
from typing import Any

from sage_eval.errors import UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm

WORKSPACE = 5 << 30
"""Bytes an engine needs beside weights and cache: CUDA context, graphs, activations of one chunk."""


def groups(arms: Sequence[BenchArm], baseline: str, count: int) -> list[list[BenchArm]]:
    """The arms in groups of `count`, the baseline in each of them; one by one where `count` is 1."""
    base = next(arm for arm in arms if arm.name == baseline)
    others = [arm for arm in arms if arm is not base]
    if count < 2:
        return [[base], *([arm] for arm in others)]
    return [[base, *others[i : i + count - 1]] for i in range(0, len(others), count - 1)] or [[base]]


def fitting(sizes: dict[str, Any], cache_tokens: int) -> int:
    """How many engines of a model (`sizes` as of `shape.describe`) with so large a cache fit; 1 without a GPU."""
    if (card := gpu.state()) is None or "free_mib" not in card:
        return 1
    if "weight_bytes" not in sizes:
        raise UsageError("this model's size is not known from its configuration: say --resident 1, or how many fit")
    each = sizes["weight_bytes"] + sizes["kv_bytes_per_token"] * cache_tokens + WORKSPACE
    return max(1, int((card["free_mib"] << 20) // each))
