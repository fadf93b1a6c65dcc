"""One layer's distances for one prompt, as sums that later prompts are added to; and how far K's channels stick out.

All in float64 on the tensors' own device; what leaves it is a handful of numbers and one a head.
"""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

KEY_BLOCK = 64


class Sums(BaseModel):
    """`other` against `base`, both [tokens, heads, D]: sums over all elements, cosines of whole tokens.

    `squared` is Σ(other − base)², `squared_base` Σbase², `absolute` and `absolute_base` likewise of |·|; `heads` and
    `heads_base` are the squares by head; `cosine` is the sum over tokens, `worst_cosine` the least.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int
    elements: int
    squared: float
    squared_base: float
    absolute: float
    absolute_base: float
    largest: float
    cosine: float
    worst_cosine: float
    worst_position: int
    heads: list[float]
    heads_base: list[float]


class Outliers(BaseModel):
    """Channels of K in one layer: `largest` and `median` of |K|; `peak` and `ratio` by blocks of 64 keys.

    R of a channel is the median over blocks of its largest |K| there, the number that sets a block's scale. `peak` is
    the largest R of any channel, `ratio` the largest R over the median R of its head, in the head where it is largest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    largest: float
    median: float
    peak: float
    ratio: float


def sums(base: "Tensor", other: "Tensor") -> Sums:
    """Both [tokens, heads, D], any floating dtype. Equal tensors give exact zeros and cosines of exactly 1."""
    import torch

    a, b = base.double(), other.double()
    d = b - a
    squares, squares_a = d.square().sum((0, 2)), a.square().sum((0, 2))
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    product = (flat_a * flat_b).sum(1)
    lengths = ((flat_a * flat_a).sum(1) * (flat_b * flat_b).sum(1)).sqrt()
    # A token of zeros has no direction: two of them agree, one of them does not.
    cosines = torch.where(lengths > 0, product / lengths, (d.flatten(1) == 0).all(1).double())
    worst, position = cosines.min(0)
    numbers = torch.stack([
        d.abs().sum(), a.abs().sum(), d.abs().max(), cosines.sum(), worst, position.double()
    ]).tolist()  # fmt: skip
    heads, heads_base = torch.stack([squares, squares_a]).tolist()
    absolute, absolute_base, largest, cosine, least, where = numbers
    return Sums(
        tokens=len(a), elements=a.numel(), squared=sum(heads), squared_base=sum(heads_base), absolute=absolute,
        absolute_base=absolute_base, largest=largest, cosine=cosine, worst_cosine=least, worst_position=int(where),
        heads=heads, heads_base=heads_base,
    )  # fmt: skip


def outliers(k: "Tensor", *, smoothed: bool) -> Outliers:
    """K [tokens, heads, D], at least 64 tokens, as it is or less its mean over the sequence.

    A last block that is not full is left out of R.
    """
    import torch

    x = (k.float() - k.float().mean(0) if smoothed else k.float()).abs()
    blocks = x[: len(x) // KEY_BLOCK * KEY_BLOCK].view(-1, KEY_BLOCK, *x.shape[1:])
    peaks = blocks.amax(1).median(0).values  # R, [heads, D]
    ratio = peaks.amax(1) / peaks.median(1).values.clamp_min(torch.finfo(torch.float32).tiny)
    largest, median, peak, most = torch.stack([x.max(), x.median(), peaks.max(), ratio.max()]).tolist()
    return Outliers(largest=largest, median=median, peak=peak, ratio=most)
