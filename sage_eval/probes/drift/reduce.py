"""The scheduler's lines, a prompt and layer each, into the record's series, a layer each."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from sage_eval.errors import EngineError
from sage_eval.probes.drift.lines import Against, Line, Way
from sage_eval.probes.drift.record import LayerDrift, LayerKeys, Series
from sage_eval.probes.drift.statistics import Outliers, Sums


def series(lines: Iterable[Line], prompts: int) -> list[Series]:
    """A series for each way, arm and thing compared with, in the order of their first lines.

    `EngineError` where a prompt's layer is missing or was seen twice: then the hook did not see all that was computed.
    """
    found: dict[tuple[Way, str, Against], dict[int, dict[int, Sums]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line.sums is None:
            continue
        at = found[line.way, line.arm, line.against][line.layer]
        if line.prompt in at:
            raise EngineError(f"{line.arm}: layer {line.layer} computed prompt {line.prompt} twice")
        at[line.prompt] = line.sums
    for (way, arm, _), layers in found.items():
        if lost := [layer for layer, by_prompt in layers.items() if len(by_prompt) != prompts]:
            raise EngineError(f"{arm} ({way}): not all of {prompts} prompts were seen in layers {lost}")
    return [
        Series(way=way, arm=arm, against=against, layers=[drift(i, layers[i]) for i in sorted(layers)])
        for (way, arm, against), layers in found.items()
    ]


def drift(layer: int, prompts: dict[int, Sums]) -> LayerDrift:
    """One layer, from the sums of each prompt."""
    parts = list(prompts.values())
    squared, base = sum(p.squared for p in parts), sum(p.squared_base for p in parts)
    heads = [
        relative(sum(a), sum(b))
        for a, b in zip(
            zip(*(p.heads for p in parts), strict=True), zip(*(p.heads_base for p in parts), strict=True), strict=True
        )
    ]
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
    """K's outliers by layer."""
    found: dict[int, list[tuple[Outliers, Outliers]]] = defaultdict(list)
    for line in lines:
        if line.keys:
            found[line.layer].append(line.keys)
    return [
        LayerKeys(layer=i, raw=_middle([a for a, _ in found[i]]), smoothed=_middle([b for _, b in found[i]]))
        for i in sorted(found)
    ]


def _middle(parts: Sequence[Outliers]) -> Outliers:
    return Outliers(**{name: median(getattr(part, name) for part in parts) for name in Outliers.model_fields})
