"""Outlier stress: checkpoints that compute the same function and are harder to quantise, by a known dose.

In each layer and KV head a pair of K's channels is scaled by s and the same pair of the group's queries by 1/s. Exact
attention does not change by a bit; INT8 K does, because the pair sets each block's scale and the other channels are
left with few levels (and Q's pair, made small, loses its own). s is the dose; the reference scale is the smallest power
of two for which the pair dominates 16-fold in every layer and head.

Refused with a reason, before anything is left on the disk: logits that are not bit-identical in bf16, a reference dose
that does not raise the definition's error fivefold, keys that leave fp16's range.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from sage_eval.attention.numerics import KEY_BLOCK, attention
from sage_eval.calibrate.capture import Seen, load_model, look, same_function
from sage_eval.calibrate.checkpoint import weight_files, write
from sage_eval.calibrate.layouts import Layout, Shape, shape_of
from sage_eval.calibrate.scales import FP16_MAX
from sage_eval.calibrate.text import WINDOW, calibration
from sage_eval.errors import DataError, UsageError
from sage_eval.store import provenance
from sage_eval.store.files import write_json

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
    `peaks` are R, [kv_heads, D / 2].
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


RISE = 5.0
"""How many times the definition's error must grow at the reference scale, with K smoothed."""
DOSES, RECORD = "doses.json", "stress.json"
PROVEN = 256
"""Tokens on which the written model is compared with its source, in bf16: a CPU is slow at that."""


class Stress(BaseModel):
    """`stress.json`. `pairs` are channels of K: by layer and KV head the two of each pair that was scaled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    scale: int
    reference_scale: float
    source_sha256: str
    model_type: str
    pairs: list[list[list[tuple[int, int]]]]
    text: str


def read(folder: Path) -> Stress | None:
    """What the finished checkpoint in `folder` is; None where there is none, or some of its weights are gone."""
    try:
        found = Stress.model_validate_json((folder / RECORD).read_bytes())
        return found if all((folder / name).is_file() for name in weight_files(folder)) else None
    except (OSError, ValidationError):
        return None


def complete(folder: Path, scale: int, source_sha256: str) -> bool:
    """Whether `folder` holds the finished checkpoint of this scale and source, chosen on whatever text."""
    found = read(folder)
    return found is not None and (found.scale, found.source_sha256) == (scale, source_sha256)


class Dose(BaseModel):
    """One scale: relative L2 error of the definition (int8-fp16) against exact attention, by layer."""

    scale: float
    smoothed: list[float]
    unsmoothed: list[float]


class Doses(BaseModel):
    """`doses.json`: what the definition says of each scale, before any engine was asked.

    `peaks` is R of the chosen pair in each layer and KV head, `dominance` is that over the largest R of the others.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    source_sha256: str
    text: str
    reference_scale: float
    peaks: list[list[float]]
    dominance: list[list[float]]
    doses: list[Dose]

    def rise(self, scale: float) -> float:
        """The mean error over the layers at `scale`, K smoothed, as a multiple of the error without stress."""
        error = {dose.scale: sum(dose.smoothed) for dose in self.doses}
        return error[scale] / error[1]


def stress(
    name: str, scales: Sequence[int], output: Path, text: Path | None = None, *, tokens: int = WINDOW, pairs: int = 1
) -> Doses:
    """Write `output/stress/<scale>` for each scale (those finished alike stay) and measure the doses.

    The model is `name` (folder or hub id). Scales are powers of two, 1 the model itself; `output` is a run folder, or
    is to become one. `text` None takes WikiText-2's validation set, `tokens` of it, at most one window; `pairs` are 1
    or 2 a head. `UsageError` for a scale, an architecture or a dtype that cannot work, `DataError` where one of the
    checks failed.
    """
    if wrong := [scale for scale in scales if scale < 1 or scale != int(scale) or int(scale) & (int(scale) - 1)]:
        raise UsageError(f"--scale {wrong[0]:g}: a dose is a power of two from 1 on, such as 1,4,16,64")
    folder = provenance.find_model(name)
    shape = shape_of(folder)
    ids = (given := calibration(folder, text, tokens=min(tokens, WINDOW))).windows[0]
    seen: list[Seen] = []
    look(load_model(folder), ids, seen.append)
    chosen = [choose(block_peaks(layer.k, shape.layout), pairs, shared=shape.layout.norms) for layer in seen]
    source = provenance.describe_model(name, folder)["sha256"]
    doses = measure(seen, shape, chosen, scales, source, given.source)
    check(doses, seen, shape, chosen, max(scales))

    for scale in scales:
        record = Stress(
            scale=scale,
            reference_scale=doses.reference_scale,
            source_sha256=source,
            model_type=shape.model_type,
            pairs=[
                [[shape.layout.channels(pair, shape.head_dim) for pair in head] for head in choice.pairs]
                for choice in chosen
            ],
            text=given.source,
        )
        target = output / "stress" / str(scale)
        if read(target) != record:
            factors = [row_factors(shape, choice.pairs, scale) for choice in chosen]
            write(
                folder, target, shape.weight_factors(factors), (RECORD, record.model_dump(mode="json")),
                lambda written: same_function(folder, written, ids[:PROVEN]),
            )  # fmt: skip
    write_json(output / "stress" / DOSES, doses.model_dump(mode="json"))
    return doses


def measure(
    seen: Sequence[Seen], shape: Shape, chosen: Sequence[Choice], scales: Sequence[int], source: str, text: str
) -> Doses:
    """The definition's error on captured tensors for 1, the reference scale and each of `scales`."""
    peaks = []
    for layer, choice in zip(seen, chosen, strict=True):
        by_pair = block_peaks(layer.k, shape.layout)
        peaks.append([float(by_pair[head, pairs].min()) for head, pairs in enumerate(choice.pairs)])
    reference = reference_scale(list(chosen))
    wanted = sorted({1.0, *map(float, scales), *([reference] if reference < FP16_MAX else [])})
    errors: dict[tuple[float, str], list[float]] = {}
    for layer, choice in zip(seen, chosen, strict=True):
        q, k, v = (x.float() for x in (layer.q, layer.k, layer.v))
        exact = attention(q, k, v, scale=layer.scale, variant="exact")
        for scale in wanted:
            stressed = stressed_qk(q, k, shape, choice, scale)
            for smooth in ("sequence", "off"):
                out = attention(*stressed, v, scale=layer.scale, smooth_k=smooth)
                errors.setdefault((scale, smooth), []).append(float((out - exact).norm() / exact.norm()))
    return Doses(
        source_sha256=source,
        text=text,
        reference_scale=reference,
        peaks=peaks,
        dominance=[[1 / ratio if ratio else float("inf") for ratio in choice.ratios] for choice in chosen],
        doses=[Dose(scale=s, smoothed=errors[s, "sequence"], unsmoothed=errors[s, "off"]) for s in wanted],
    )


def row_factors(shape: Shape, pairs: Sequence[Sequence[int]], scale: float) -> "Tensor":
    """What K's channels are multiplied by in one layer, float32 [kv_heads, head_dim]; `pairs` are by KV head."""
    import torch

    factor = torch.ones(shape.kv_heads, shape.head_dim)
    for head, chosen in enumerate(pairs):
        for pair in chosen:
            factor[head, list(shape.layout.channels(pair, shape.head_dim))] = scale
    return factor


def stressed_qk(q: "Tensor", k: "Tensor", shape: Shape, choice: Choice, scale: float) -> "tuple[Tensor, Tensor]":
    """What a checkpoint under stress gives attention: q [T, H, D] and k [T, Hkv, D] with the chosen pairs scaled."""
    factor = row_factors(shape, choice.pairs, scale).to(k.device)
    return q / factor.repeat_interleave(shape.heads // shape.kv_heads, 0), k * factor


def check(doses: Doses, seen: Sequence[Seen], shape: Shape, chosen: Sequence[Choice], largest: int) -> None:
    """`DataError` where the reference dose does too little, or the largest one takes K out of fp16's range."""
    reference = doses.reference_scale
    if reference >= FP16_MAX:
        raise DataError("a KV head's largest pair is near zero beside its others: no scale within fp16's range will do")
    if doses.rise(reference) < RISE:
        raise DataError(
            f"at the reference scale {reference:g} the definition's error rises {doses.rise(reference):.1f} times, "
            f"less than {RISE:g}: stress by these pairs would prove nothing on this model"
        )
    for layer, choice in zip(seen, chosen, strict=True):
        _, k = stressed_qk(layer.q.float(), layer.k.float(), shape, choice, max(largest, reference))
        peak = float(k.abs().max())
        if not peak <= FP16_MAX:
            raise DataError(
                f"K of layer {layer.layer} reaches {peak:.3g} under stress, beyond fp16's range: scale less"
            )
