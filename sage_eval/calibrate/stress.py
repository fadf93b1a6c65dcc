"""Outlier stress: checkpoints that compute the same function and are harder to quantise, by a known dose.

In each layer and KV head a pair of K's channels is scaled by s and the same pair of the group's queries by 1/s. Exact
attention does not change by a bit; INT8 K does, because the pair sets each block's scale and the other channels are
left with few levels (and Q's pair, made small, loses its own). s is the dose; the reference scale is the smallest power
of two for which the pair dominates 16-fold in every layer and head.

Refused with a reason, before anything is left on the disk: logits that are not bit-identical in bf16, a reference dose
that does not raise the definition's error fivefold, keys that leave fp16's range.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.attention.numerics import attention
from sage_eval.calibrate.capture import Seen, load_model, run
from sage_eval.calibrate.checkpoint import Stress, read, write
from sage_eval.calibrate.layouts import Shape, shape_of
from sage_eval.calibrate.pairs import Choice, block_peaks, choose, reference_scale
from sage_eval.calibrate.text import WINDOW, calibration
from sage_eval.errors import DataError, UsageError
from sage_eval.runs import manifest
from sage_eval.runs.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

SCALES = (1, 4, 16, 64)
RISE = 5.0
"""How many times the definition's error must grow at the reference scale, with K smoothed."""
FP16_MAX = 65_504.0
DOSES = "doses.json"


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


def is_dose(scale: float) -> bool:
    """Whether `scale` is a power of two from 1 on."""
    return scale >= 1 and scale == int(scale) and int(scale) & (int(scale) - 1) == 0


def stress(
    name: str, scales: Sequence[int], output: Path, text: Path | None = None, *, tokens: int = WINDOW, pairs: int = 1
) -> Doses:
    """Write `output/stress/<scale>` for each scale (those finished alike stay) and measure the doses.

    Args:
        name: model folder or hub id.
        scales: powers of two; 1 is the model itself.
        output: a run folder, or the folder that is to become one.
        text: calibration text; None takes WikiText-2's validation set.
        tokens: of text, at most one window of 2,048.
        pairs: pairs a head, 1 or 2.

    Raises:
        UsageError: a scale, an architecture or a dtype that cannot work.
        DataError: one of the checks failed.
    """
    if wrong := [scale for scale in scales if not is_dose(scale)]:
        raise UsageError(f"--scale {wrong[0]:g}: a dose is a power of two from 1 on, such as 1,4,16,64")
    folder = manifest.find_model(name)
    shape = shape_of(folder)
    ids = (given := calibration(folder, text, tokens=min(tokens, WINDOW))).windows[0]
    seen: list[Seen] = []
    logits = run(load_model(folder, "bfloat16"), ids, seen.append)
    chosen = [choose(block_peaks(layer.k, shape.layout), pairs, shared=shape.layout.norms) for layer in seen]
    source = manifest.describe_model(name, folder)["sha256"]
    doses = measure(seen, shape, chosen, scales, source, given.source)
    check(doses, seen, shape, chosen, max(scales))

    def prove(written: Path) -> None:
        import torch

        if not torch.equal(run(load_model(written, "bfloat16"), ids, lambda _seen: None), logits):
            raise DataError("exact attention is not bit-identical under outlier stress: this checkpoint cannot be used")

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
            write(folder, target, shape, [choice.pairs for choice in chosen], record, prove)
    write_json(output / "stress" / DOSES, doses.model_dump(mode="json"))
    return doses


def measure(
    seen: Sequence[Seen], shape: Shape, chosen: Sequence[Choice], scales: Sequence[int], source: str, text: str
) -> Doses:
    """The definition's error on captured tensors for 1, the reference scale and each of `scales`."""
    peaks = [
        [min(float(block_peaks(layer.k, shape.layout)[h, p]) for p in pairs) for h, pairs in enumerate(choice.pairs)]
        for layer, choice in zip(seen, chosen, strict=True)
    ]
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


def stressed_qk(q: "Tensor", k: "Tensor", shape: Shape, choice: Choice, scale: float) -> "tuple[Tensor, Tensor]":
    """What a checkpoint under stress gives attention: q [T, H, D] and k [T, Hkv, D] with the chosen pairs scaled."""
    factor = shape.row_factors(choice.pairs, scale).to(k.device)
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
        peak = float(
            stressed_qk(layer.q.float(), layer.k.float(), shape, choice, max(largest, reference))[1].abs().max()
        )
        if not peak <= FP16_MAX:
            raise DataError(
                f"K of layer {layer.layer} reaches {peak:.3g} under stress, beyond fp16's range: scale less"
            )
