"""`sage-eval diagnose`: what SageAttention does to each layer of a model, why, and what balancing cures.

The model runs twice in transformers, without an engine: on one window of text the scales are chosen, on another the
definition's errors are measured, a layer at a time and on the last 128 queries of several lengths. With `divergence` it
runs some more, with the definition in place of its attention: how far the distributions of the next token then move is
what layer errors can only forecast.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.attention.numerics import attention
from sage_eval.calibrate.capture import Seen, load_model, look, run
from sage_eval.calibrate.layouts import Layout, shape_of
from sage_eval.calibrate.scales import choose, errors, exact_outputs
from sage_eval.calibrate.text import WINDOW, calibration, two_windows
from sage_eval.errors import UsageError
from sage_eval.store import provenance

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS: dict[str, dict[str, str]] = {
    "int8-fp16": {},
    "int8-fp8": {"variant": "int8-fp8"},
    "int8-fp16 unsmoothed": {"smooth_k": "off"},
    "int8-fp8 unsmoothed": {"variant": "int8-fp8", "smooth_k": "off"},
    "int8-fp16 checkpoint": {"scales": "checkpoint"},
    "int8-fp16 balance": {"scales": "balance"},
    "int8-fp8 balance": {"variant": "int8-fp8", "scales": "balance"},
}
"""Columns of the diagnosis; `scales` is how K and Q are balanced: as `sage-eval balance` or `balance=FILE` does it."""
DAMAGED = 0.1
"""A layer with a larger error is named, however the others are."""
STEADY, OUTLIER = 0.5, 8.0


class Outlier(BaseModel):
    """The channel of a KV head with the largest |K - mean|: how large, over the median channel's, and of which kind.

    "rotates": with its partner under RoPE it keeps its length and turns, so that its mean says nothing; "varies": not.
    """

    channel: int
    ratio: float
    kind: Literal["rotates", "varies"]


class Layer(BaseModel):
    """Relative L2 errors of one layer: by variant, KV head and length; and each KV head's largest outlier."""

    layer: int
    errors: dict[str, list[list[float]]]
    outliers: list[Outlier]

    def error(self, variant: str, length: int | None = None) -> float:
        """Root mean square over the KV heads, and over the lengths where none (an index) is given."""
        values = [row if length is None else [row[length]] for row in self.errors[variant]]
        flat = [x * x for row in values for x in row]
        return float((sum(flat) / len(flat)) ** 0.5)


class Divergence(BaseModel):
    """With the definition in place of attention: KL divergence over the whole vocabulary, nats per position.

    `same_top`: the share of positions with the same most probable token; `loss`: the change of nats per token.
    """

    variant: str
    tokens: int
    kl: float
    same_top: float
    loss: float


class Diagnosis(BaseModel):
    """`diagnosis.json`: what was measured, by layer, and the texts."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model: str
    source_sha256: str
    model_type: str
    text: str
    lengths: list[int]
    layers: list[Layer]
    divergences: list[Divergence] = []

    @property
    def variants(self) -> list[str]:
        """The columns that were measured: no checkpoint where the layout is not known."""
        return list(self.layers[0].errors)

    def mean(self, variant: str, length: int | None = None) -> float:
        """The mean over the layers."""
        return sum(layer.error(variant, length) for layer in self.layers) / len(self.layers)

    def damaged(self) -> list[int]:
        """Layers that carry the damage, worst first: beyond `DAMAGED`, or four times the median layer."""
        by_layer = sorted(((layer.error("int8-fp16"), layer.layer) for layer in self.layers), reverse=True)
        limit = min(DAMAGED, 4 * by_layer[len(by_layer) // 2][0])
        return [layer for error, layer in by_layer if error > limit]

    def share(self, layer: int) -> float:
        """What share of the squared error, summed over layers, one layer has."""
        squares = {x.layer: x.error("int8-fp16") ** 2 for x in self.layers}
        return squares[layer] / sum(squares.values())


def diagnose(name: str, text: Path | None = None, *, tokens: int = WINDOW, divergence: int = 0) -> Diagnosis:
    """Diagnose the model `name` (folder or hub id) on two windows of `tokens` tokens, the longest length.

    `text` None takes WikiText-2's validation set; the divergence is measured on so many further texts. `UsageError` for
    too little text, or attention that SageAttention does not know, `PrerequisiteError` for a model that cannot be run,
    `DataError` for keys that are not finite.
    """
    folder = provenance.find_model(name)
    given = two_windows(folder, text, tokens=tokens)
    length = min(map(len, given.windows))
    lengths = [length >> i for i in range(12) if length >> i >= 128][::-1]
    try:
        layout: Layout | None = shape_of(folder).layout
    except UsageError:  # a checkpoint of this architecture cannot be balanced; everything else can be said
        layout = None
    scales: dict[str, list[Tensor]] = {"balance": [], **({"checkpoint": []} if layout else {})}
    layers: list[Layer] = []

    def see(seen: Seen) -> None:
        scales["balance"].append(choose(seen))
        if layout:
            scales["checkpoint"].append(choose(seen, layout))

    model = load_model(folder)
    look(model, given.windows[0], see)
    look(model, given.windows[1], lambda seen: layers.append(_layer(seen, lengths, scales, layout or Layout())))
    found = Diagnosis(
        model=Path(name).name,
        source_sha256=provenance.describe_model(name, folder)["sha256"],
        model_type=str(model.config.model_type),
        text=given.source,
        lengths=lengths,
        layers=layers,
    )
    if divergence:
        texts = calibration(folder, text, tokens=(divergence + 2) * length, window=length).windows
        unseen = [ids for ids in texts if ids not in given.windows][:divergence]
        if not unseen:
            raise UsageError(
                f"the text has no further window of {length} tokens to measure divergence on: a longer --text"
            )
        found.divergences = divergences(
            model, unseen, {variant: attends(scales, **VARIANTS[variant]) for variant in found.variants}
        )
    return found


def _layer(seen: Seen, lengths: list[int], scales: "dict[str, list[Tensor]]", layout: Layout) -> Layer:
    exact, by_variant = exact_outputs(seen, lengths), {}
    for variant, how in VARIANTS.items():
        kind, options = how.get("scales"), {key: value for key, value in how.items() if key != "scales"}
        if kind is None or kind in scales:
            balances = scales[kind][seen.layer].to(seen.k.device)[None] if kind else None
            by_variant[variant] = errors(seen, lengths, balances, exact, **options)[:, 0].T.tolist()
    return Layer(layer=seen.layer, errors=by_variant, outliers=outliers(seen.k, layout))


def outliers(k: "Tensor", layout: Layout) -> list[Outlier]:
    """The largest outlier channel of each KV head: K [tokens, kv_heads, D]."""
    k = k.float()
    residual = (k - k.mean(0)).abs().amax(0)
    size = layout.by_channel(layout.by_pair(k).norm(dim=-1).std(0) / layout.by_pair(k).norm(dim=-1).mean(0))
    found = []
    for head, channel in enumerate(residual.argmax(1).tolist()):
        ratio = float(residual[head, channel] / residual[head].median().clamp_min(1e-30))
        steady = float(size[head, channel]) < STEADY
        found.append(Outlier(channel=channel, ratio=ratio, kind="rotates" if steady else "varies"))
    return found


Attend = Callable[[Seen], "Tensor"]


def attends(vectors: "dict[str, list[Tensor]]", *, scales: str | None = None, **how: Any) -> Attend:
    """The definition as a layer's attention, on Q, K and V rounded to bf16 as an engine's cache holds them."""

    def attend(seen: Seen) -> "Tensor":
        balance = vectors[scales][seen.layer].to(seen.k.device) if scales else None
        q, k, v = (x.bfloat16().float() for x in (seen.q, seen.k, seen.v))
        return attention(q, k, v, scale=seen.scale, balance=balance, **how)

    return attend


def divergences(model: Any, texts: list[list[int]], variants: dict[str, Attend]) -> list[Divergence]:
    """How far each of `variants`, as the attention of every layer, moves the distributions from exact attention's."""
    import torch

    sums = {variant: torch.zeros(3, dtype=torch.float64) for variant in variants}
    for ids in texts:
        exact = run(model, ids, attends({}, variant="exact"))
        truth = torch.tensor([*ids[1:], 0], device=exact.device)
        for variant, attend in variants.items():
            moved = run(model, ids, attend)
            for start in range(0, len(ids), 256):  # rows of a vocabulary of 150,000 numbers each
                rows = slice(start, start + 256)
                p, q = (logits[rows].float().log_softmax(-1) for logits in (exact, moved))
                kl, same = (p.exp() * (p - q)).sum(), (p.argmax(-1) == q.argmax(-1)).sum()
                loss = (p - q).gather(1, truth[rows, None])[: len(ids) - 1 - start].sum()
                sums[variant] += torch.stack([kl, same, loss]).double().cpu()
    tokens = sum(map(len, texts))
    return [
        Divergence(variant=variant, tokens=tokens, kl=total[0], same_top=total[1], loss=total[2])
        for variant, total in ((variant, (x / tokens).tolist()) for variant, x in sums.items())
    ]
