"""A row of `drift.json`: how far an arm's attention output is from the baseline's and from exact attention."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal

from pydantic import Field

from sage_eval.errors import EngineError
from sage_eval.measure.base import Row
from sage_eval.measure.drift.lines import OTHER, OWN, SAME, Line, Model, Outliers, Sums
from sage_eval.store.record import Record


class LayerDrift(Model):
    """One layer over all prompts. a is what is compared with, b the arm's output.

    `relative_l2` = sqrt(Σ(b − a)² / Σa²), its least and largest of single prompts in `range_l2`; `relative_l1` =
    Σ|b − a| / Σ|a|; `rmse` = sqrt(mean (b − a)²); `cosine` is the mean over tokens (all heads of a token one vector),
    `worst_cosine` the least, at `worst_position` of `worst_prompt`; `worst_head` is that of largest relative L2.
    """

    layer: int
    relative_l2: float
    range_l2: tuple[float, float]
    relative_l1: float
    rmse: float
    largest: float
    cosine: float
    worst_cosine: float
    worst_prompt: int
    worst_position: int
    worst_head: int
    worst_head_l2: float


class LayerKeys(Model):
    """K of one layer, as it is and after its mean over the sequence is taken off: medians over prompts."""

    layer: int
    raw: Outliers
    smoothed: Outliers


class Drift(Row):
    """One arm's layers against the baseline's; the cell (`lines.Cell`) says on which inputs.

    `same inputs`: the arm's kernel on the q, k and v of the baseline's layers, also against `exact` attention; the
    baseline's row has that and its `keys`. `own inputs`: the arm's own run, where the error of earlier layers is in the
    inputs of later ones, or, with `shared`, the baseline's engine with the arm's kernel in place of its own; the
    baseline's row is a second run. `error` says why the arm's kernel could not be called.
    """

    backend: str | None = None
    layers: list[LayerDrift] = Field(default_factory=list)
    exact: list[LayerDrift] = Field(default_factory=list)
    keys: list[LayerKeys] = Field(default_factory=list)
    shared: bool = False
    error: str | None = None


def mean_l2(layers: Sequence[LayerDrift]) -> float:
    """Relative L2, the mean over layers."""
    return sum(layer.relative_l2 for layer in layers) / len(layers)


class Latest:
    """The latest row of each arm and cell of a record."""

    def __init__(self, record: Record[Drift]) -> None:
        self.record = record
        self.rows = {(row.cell, row.arm): row for row in record.rows}
        self.baseline = record.baseline or ""
        self.arms = [name for name in record.arms if name != self.baseline]
        mine = self.rows.get((SAME, self.baseline))
        self.exact, self.keys = (mine.exact, mine.keys) if mine else ([], [])

    def layers(self, cell: str, arm: str) -> list[LayerDrift]:
        """Against the baseline; empty where they were not measured."""
        row = self.rows.get((cell, arm))
        return row.layers if row else []

    def share(self, cell: str, arm: str) -> float | None:
        """What of an arm's drift (mean relative L2) an exact 16-bit kernel of another make shows too."""
        own, other = self.layers(cell, arm), self.layers(cell, OTHER)
        return mean_l2(other) / mean_l2(own) if own and other and mean_l2(own) else None

    def error(self, cell: str, arm: str) -> str | None:
        """Why the arm has no layers in a cell."""
        row, entry = self.rows.get((cell, arm)), self.record.arms.get(arm)
        return (row.error if row else None) or (entry.error if entry and cell == OWN else None)


def layers(lines: Iterable[Line], prompts: int, against: Literal["sums", "exact"] = "sums") -> list[LayerDrift]:
    """The layers of one arm in one cell, from the sums of each prompt against one thing.

    `EngineError` where a prompt's layer is missing or was seen twice: then the hook did not see all that was computed.
    """
    found: dict[int, dict[int, Sums]] = defaultdict(dict)
    for line in lines:
        if (sums := getattr(line, against)) is None:
            continue
        if line.prompt in found[line.layer]:
            raise EngineError(f"{line.arm}: layer {line.layer} computed prompt {line.prompt} twice")
        found[line.layer][line.prompt] = sums
    if lost := [layer for layer, by_prompt in found.items() if len(by_prompt) != prompts]:
        raise EngineError(f"not all of {prompts} prompts were seen in layers {lost}")
    return [drift(layer, found[layer]) for layer in sorted(found)]


def drift(layer: int, prompts: dict[int, Sums]) -> LayerDrift:
    """One layer, from the sums of each prompt."""
    parts = list(prompts.values())
    squared, base = sum(p.squared for p in parts), sum(p.squared_base for p in parts)
    by_head = zip(*(p.heads for p in parts), strict=True), zip(*(p.heads_base for p in parts), strict=True)
    heads = [relative(sum(a), sum(b)) for a, b in zip(*by_head, strict=True)]
    worst = min(prompts, key=lambda prompt: prompts[prompt].worst_cosine)
    each = [relative(p.squared, p.squared_base) for p in parts]
    return LayerDrift(
        layer=layer,
        relative_l2=relative(squared, base),
        range_l2=(min(each), max(each)),
        relative_l1=relative(sum(p.absolute for p in parts) ** 2, sum(p.absolute_base for p in parts) ** 2),
        rmse=math.sqrt(squared / sum(p.elements for p in parts)),
        largest=max(p.largest for p in parts),
        cosine=sum(p.cosine for p in parts) / sum(p.tokens for p in parts),
        worst_cosine=prompts[worst].worst_cosine,
        worst_prompt=worst,
        worst_position=prompts[worst].worst_position,
        worst_head=max(range(len(heads)), key=heads.__getitem__),
        worst_head_l2=max(heads),
    )


def relative(squared: float, base: float) -> float:
    """sqrt(squared / base); 0 where both are, infinite where only the base is."""
    return math.sqrt(squared / base) if base else (0.0 if not squared else math.inf)


def keys(lines: Iterable[Line]) -> list[LayerKeys]:
    """K's outliers by layer, the medians over prompts."""
    found: dict[int, list[tuple[Outliers, Outliers]]] = defaultdict(list)
    for line in lines:
        if line.keys:
            found[line.layer].append(line.keys)

    def middle(parts: Sequence[Outliers]) -> Outliers:
        return Outliers(**{name: median(getattr(part, name) for part in parts) for name in Outliers.model_fields})

    return [
        LayerKeys(layer=i, raw=middle([a for a, _ in found[i]]), smoothed=middle([b for _, b in found[i]]))
        for i in sorted(found)
    ]
