"""Which pairs of K's channels to scale, and by how much, so that quantisation is harmed although nothing else is.

A large channel does harm where it sets a 64-key block's scale and leaves few levels to the others. A channel's mean
does not count (smoothing removes it), and scaling all channels alike changes nothing. So pairs are chosen by what is
left of K after smoothing: R = median over blocks of 64 keys of max |K - mean of the sequence|.
"""

import math
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from sage_eval.attention.numerics import KEY_BLOCK
from sage_eval.calibrate.layouts import Layout

if TYPE_CHECKING:
    from torch import Tensor

DOMINANCE = 16.0
"""The scaled pair's R over the largest of the others': INT8 leaves those 127 / 16 ≈ 8 levels on each side of zero."""


class Choice(NamedTuple):
    """One layer: the pairs of each KV head, and by head largest R of the others / smallest R of the chosen."""

    pairs: list[list[int]]
    ratios: list[float]


def block_peaks(k: "Tensor", layout: Layout) -> "Tensor":
    """R of each pair, the larger of its two channels counting: K [tokens, kv_heads, D] → [kv_heads, D / 2], float32.

    A last block that is not full is left out.
    """
    tokens = len(k) // KEY_BLOCK * KEY_BLOCK
    left = (k.float() - k.float().mean(0)).abs()[:tokens].view(-1, KEY_BLOCK, *k.shape[1:])
    return layout.by_pair(left.amax(1)).amax(-1).median(0).values


def choose(peaks: "Tensor", count: int, *, shared: bool) -> Choice:
    """The `count` pairs of each KV head that need the smallest scale to dominate: those of largest R.

    With `shared`, all heads take the same pairs (a norm's weight has no heads): those whose worst head needs least. A
    head with little in that pair then sets the scale for all, and the others are stressed harder than they need be.

    Args:
        peaks: R, [kv_heads, D / 2].
        count: pairs a head, 1 or 2.
        shared: whether the heads must agree.
    """
    import torch

    heads, pairs = peaks.shape
    options = torch.tensor(list(combinations(range(pairs), count)), device=peaks.device)
    # The largest that is not in an option is among the first count + 1.
    first = peaks.topk(count + 1, dim=1)
    taken = (first.indices[:, :, None, None] == options).any(-1)
    others = first.values[:, :, None].masked_fill(taken, 0.0).amax(1)
    # A dead head, zero throughout, has nothing to dominate.
    ratio = (others / peaks[:, options].amin(-1)).nan_to_num(0.0, posinf=math.inf)
    best = ratio.amax(0).argmin().expand(heads) if shared else ratio.argmin(1)
    return Choice(options[best].tolist(), ratio.gather(1, best[:, None]).flatten().tolist())


def reference_scale(choices: list[Choice]) -> float:
    """The smallest power of two s with s · R ≥ 16 × the largest R of the others, in every layer and head; at least 1.

    Infinite where a head's chosen pair is zero and others are not.
    """
    needed = DOMINANCE * max(ratio for choice in choices for ratio in choice.ratios)
    return 2.0 ** math.ceil(math.log2(needed)) if 1 < needed < math.inf else max(1.0, needed)
