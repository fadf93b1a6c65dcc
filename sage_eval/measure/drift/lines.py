"""What the scheduler's process is told, and what it answers: one line per prompt and layer, with its distances as sums.

Sums are taken in float64 on the tensors' own device; what leaves it is a handful of numbers and one a head.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

Cell = Literal["same inputs", "own inputs"]
SAME: Literal["same inputs"] = "same inputs"
OWN: Literal["own inputs"] = "own inputs"
OTHER = "torch SDPA"
"""The exact 16-bit kernel of another make, beside which every backend's distance is shown."""
FACTORY = "sage_eval.measure.drift.hook:Hook"
LINES, PROMPTS, TURN = "lines.jsonl", "prompts.npy", "turn"
KEY_BLOCK = 64


class Model(BaseModel):
    """Has no field that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kernel(Model):
    """An arm whose prefill kernel is asked about the baseline's inputs: backend and `sage_attn`'s settings."""

    arm: str
    backend: str
    settings: dict[str, Any] | None = None


class Watch(Model):
    """What the hook is told: the folder all engines share, the arm that runs, and, for the baseline, the others."""

    folder: Path
    arm: str
    is_baseline: bool = False
    kernels: list[Kernel] = []

    def spec(self) -> list[dict[str, Any]]:
        """The value of SGLang's `forward_hooks`."""
        config = self.model_dump(mode="json")
        return [{"name": "sage-eval-drift", "target_modules": ["*attn"], "hook_factory": FACTORY, "config": config}]


class Sums(Model):
    """`other` against `base`, both [tokens, heads, D]: sums over all elements, cosines of whole tokens.

    `squared` is Σ(other − base)², `squared_base` Σbase², `absolute` and `absolute_base` likewise of |·|; `heads` and
    `heads_base` are the squares by head; `cosine` is the sum over tokens, `worst_cosine` the least.
    """

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


class Outliers(Model):
    """Channels of K in one layer: `largest` and `median` of |K|; `peak` and `ratio` by blocks of 64 keys.

    R of a channel is the median over blocks of its largest |K| there, the number that sets a block's scale. `peak` is
    the largest R of any channel, `ratio` the largest R over the median R of its head, in the head where it is largest.
    """

    largest: float
    median: float
    peak: float
    ratio: float


class Line(Model):
    """A prompt's layer in an arm: `sums` from the baseline and, on the same inputs, from `exact` attention.

    `keys` are of K as it is and smoothed, once per prompt and layer, in the baseline's engine. `error` is why the arm's
    kernel could not be called with the baseline's inputs.
    """

    cell: Cell
    arm: str
    prompt: int
    layer: int
    sums: Sums | None = None
    exact: Sums | None = None
    keys: tuple[Outliers, Outliers] | None = None
    error: str | None = None


def read(folder: Path) -> Iterator[Line]:
    """The lines in `folder` so far."""
    path = folder / LINES
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(Line.model_validate_json, file)


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
