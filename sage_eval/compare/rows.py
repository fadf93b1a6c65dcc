"""One row of a comparison: a metric of a task or group in two arms, from the paired samples."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_eval.compare import ties
from sage_eval.compare.pairing import Pair
from sage_eval.compare.ranking import chosen, ranked
from sage_eval.statistics.changes import NEAR_TIE, Changes
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import (
    flips,
    mean,
    paired_difference,
    paired_ratio_difference,
    ratio_of_sums,
)
from sage_eval.store.comparison import Cell, MetricKind, TaskComparison
from sage_eval.store.samples import Sample

EQUAL = 0.8
"""Units worth less than this share of their number are said to be unequal."""
INFORMATIVE = 0.80
"""A retrieval cell whose baseline scores less than this says nothing about the candidate."""

_SCALES: Mapping[MetricKind, float] = {"log-perplexity": -1.0, "bits": -1 / math.log(2), "pooled": 1.0}


def by_metric(items: list[Pair]) -> dict[str, list[Pair]]:
    """The pairs of which one has each metric, by its name, and with the filter's where that has one."""
    chosen: dict[str, list[Pair]] = {}
    for item in items:
        suffix = "" if item[0].filter == "none" else f",{item[0].filter}"
        for name in item[0].metrics | item[1].metrics:
            chosen.setdefault(name + suffix, []).append(item)
    return chosen


def compare_items(
    task: str,
    metric: str,
    items: list[Pair],
    *,
    group: bool,
    parent: str | None,
    kind: MetricKind = "mean",
    limit: float = NEAR_TIE,
) -> TaskComparison:
    """The row of `metric`, which all `items` have; choices whose lead is under `limit` nats are near-ties.

    Raises ValueError where the items' weights cannot be.
    """
    name = metric.partition(",")[0]
    (base, weights), (cand, others) = (columns(side, name, kind) for side in zip(*items, strict=True))
    clusters = labels(items, "cluster", "document")
    table = changed = split = by_member = None
    design: dict[str, Any] = {}
    if weights is not None:
        if weights != others:
            raise ValueError("an item has another weight in each arm")
        estimates = (
            ratio_of_sums(base, weights, clusters=clusters),
            ratio_of_sums(cand, weights, clusters=clusters),
            paired_ratio_difference(base, cand, weights, clusters=clusters),
        )
    else:
        tasks = [baseline.task for baseline, _ in items]
        design = {"clusters": clusters, "strata": tasks if len(set(tasks)) > 1 else None}
        estimates = (mean(base, **design), mean(cand, **design), paired_difference(base, cand, **design))
        if group and clusters is None and len(set(tasks)) > 1:
            by_member = paired_difference(base, cand, clusters=tasks)
        if set(base) | set(cand) <= {0.0, 1.0}:
            table = flips(base, cand)
            changed = sum(_answer(baseline, name) != _answer(candidate, name) for baseline, candidate in items)
    cells = _cells(items, base, cand) if table else []
    chance = _chance(items, name) if table else None
    constant = None if chance is None else _constant(items)
    if chance is not None:
        split = ties.changes(items, base, cand, limit, name)
    notes = _notes(chance, constant, estimates[0], cells) if table else []
    right = _right(items, design) if chance is not None and parent is None else None
    notes += _asides(split, by_member, right) if parent is None else []
    notes += _unequal(estimates[2])
    return TaskComparison(
        task=task,
        group=group,
        parent=parent,
        metric=metric,
        kind=kind,
        higher_is_better=True,
        n=len(items),
        baseline=estimates[0],
        candidate=estimates[1],
        difference=estimates[2],
        flips=table,
        changed=changed,
        notes=notes,
        cells=cells,
        chance=chance,
        constant=constant,
        identical=base == cand,
        changes=split,
        by_member=by_member,
        right=right,
    )


def columns(side: Sequence[Sample], metric: str, kind: MetricKind) -> tuple[list[float], list[float] | None]:
    """Each item's part of a metric and, of a ratio of sums, its weight."""
    values: list[Any] = [sample.metrics[metric] for sample in side]
    if kind == "mean":
        return [float(value) for value in values], None
    scale = _SCALES[kind]
    return [value[0] * scale for value in values], [value[1] for value in values]


def labels(items: list[Pair], *fields: str) -> list[Any] | None:
    """What each item is part of, by the first of `fields` that all of them have; None where none is."""
    for field in fields:
        if all(field in baseline.cell for baseline, _ in items):
            return [f"{baseline.task}/{baseline.cell[field]}" for baseline, _ in items]
    return None


def differing(items: list[Pair]) -> str:
    """Of items without a metric: how many were answered otherwise."""
    changed = sum(_answer(baseline, ties.RAW) != _answer(candidate, ties.RAW) for baseline, candidate in items)
    return f"no metric was computed; {changed:,} of {len(items):,} answers differ"


def _answer(sample: Sample, metric: str) -> Any:
    """What the arm answered: the choice made, the text, or the greedy flags."""
    if sample.generated:
        return sample.generated
    if len(sample.logprobs) > 1:
        return chosen(sample, metric)
    return sample.greedy


def _chance(items: list[Pair], metric: str) -> float | None:
    """Choices have a chance level, generated answers (no logprobs) and single scores have none."""
    k, *others = {len(ranked(sample, metric)) for sample, _ in items}
    return 1 / k if not others and k >= 2 else None


def _constant(items: list[Pair]) -> float | None:
    """The score of the best constant answer ("always D"), where the right choices are known by number."""
    right = [sample.target for sample, _ in items]
    return Counter(right).most_common(1)[0][1] / len(right) if all(isinstance(t, int) for t in right) else None


def _notes(chance: float | None, constant: float | None, baseline: Estimate, cells: list[Cell]) -> list[str]:
    notes = []
    if chance is not None and baseline.low is not None and baseline.low <= max(chance, constant or 0.0):
        always = f"; the best constant answer scores {100 * constant:.1f} %" if constant else ""
        notes.append(f"baseline at chance ({100 * chance:.0f} %{always}): a loss could not be seen here")
    silent = [cell for cell in cells if not cell.informative]
    if silent:
        notes.append(f"{len(silent)} of {len(cells)} cells uninformative (baseline under {100 * INFORMATIVE:.0f} %)")
    return notes


def _right(items: list[Pair], design: dict[str, Any]) -> Estimate | None:
    """The change of the right choice's log-probability among the choices, in nats, where it is known by number."""
    scores = [np.array([ranked(sample, ties.RAW) for sample in side]) for side in zip(*items, strict=True)]
    target = [sample.target for sample, _ in items]
    if not all(isinstance(t, int) and 0 <= t < scores[0].shape[1] for t in target):
        return None
    shifted = [found - found.max(axis=1, keepdims=True) for found in scores]
    line, right = np.arange(len(target)), np.array(target)
    base, cand = (found[line, right] - np.log(np.exp(found).sum(axis=1)) for found in shifted)
    return paired_difference(base, cand, **design)


def _unequal(difference: Estimate) -> list[str]:
    """What unequal units are worth, and that a few of them carry the difference, where that is so."""
    worth, largest, notes = difference.effective, difference.largest, []
    if worth is not None and largest is not None and worth <= EQUAL * difference.units:
        notes.append(
            f"its {difference.units} units are worth {worth:.0f} of one size; the largest holds {100 * largest:.0f} %"
        )
    if difference.skewed:
        notes.append("a few of its units carry the difference: the interval allows for it, but may still be short")
    return notes


def _asides(split: Changes | None, by_member: Estimate | None, right: Estimate | None) -> list[str]:
    notes = []
    if right and right.low is not None and right.high is not None and right.p is not None:
        notes.append(
            f"log-probability of the right choice: {right.value:+.2g} nats [{right.low:+.2g}, {right.high:+.2g}], "
            f"p = {right.p:.2g}"
        )
    if split and split.flips.lost + split.flips.gained:
        near, real = split.flips_near_tie, split.flips_real
        notes.append(
            f"flips by the baseline's lead: near-ties under {split.near_tie:.2g} nats −{near.lost} / +{near.gained}, "
            f"real ones −{real.lost} / +{real.gained}"
        )
    if by_member and by_member.low is not None and by_member.high is not None:
        low, high = 100 * by_member.low, 100 * by_member.high
        notes.append(f"with its members as clusters the 95 % interval is [{low:+.2f}, {high:+.2f}] pp")
    return notes


def _cells(items: list[Pair], base_scores: list[float], cand_scores: list[float]) -> list[Cell]:
    found: dict[tuple[str, int, float | None], list[tuple[float, float]]] = {}
    for (baseline, _), *values in zip(items, base_scores, cand_scores, strict=True):
        cell = baseline.cell
        # Older runs kept any document's `length`, be it "short": of those only our own tasks' have a family.
        if "length" not in cell or "family" not in cell:
            return []
        depth = float(cell["depth"]) if "depth" in cell else None
        key = (str(cell["family"]), int(cell["length"]), depth)
        found.setdefault(key, []).append((values[0], values[1]))
    cells = []
    for (family, length, depth), scores in sorted(found.items(), key=lambda e: (e[0][0], e[0][1], e[0][2] or 0)):
        base, cand = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        cells.append(
            Cell(
                family=family, length=length, depth=depth, n=len(scores), baseline=base, candidate=cand,
                informative=base >= INFORMATIVE,
            )
        )  # fmt: skip
    return cells
