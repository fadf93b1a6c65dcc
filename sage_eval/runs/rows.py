"""One row of a comparison: a metric of a task or group in two arms, from the paired samples."""

import math
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.runs import ties
from sage_eval.runs.pairing import Pair
from sage_eval.statistics.changes import NEAR_TIE, Changes
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import (
    Flips,
    flips,
    mean,
    paired_difference,
    paired_ratio_difference,
    ratio_of_sums,
)

Kind = Literal["mean", "log-perplexity", "bits"]
INFORMATIVE = 0.80
"""A retrieval cell whose baseline scores less than this says nothing about the candidate."""


class Record(BaseModel):
    """What the records of `comparison.json` have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(Record):
    """Retrieval at one family, length and depth: shares of items found, 0 to 1."""

    family: str
    length: int
    depth: float | None
    n: int
    baseline: float
    candidate: float
    informative: bool


class TaskComparison(Record):
    """One metric of one task or group in two arms. `difference` is candidate − baseline.

    `chance` is the score of a guess, where there is one, `constant` that of the best constant answer; `identical`:
    every single item scored the same in both arms; `changes`: a choice's flips with near-ties apart; `by_member`: a
    group's difference with its members as clusters.
    """

    task: str
    group: bool
    parent: str | None
    metric: str
    kind: Kind
    higher_is_better: bool
    n: int
    baseline: Estimate
    candidate: Estimate
    difference: Estimate
    flips: Flips | None
    changed: int | None
    notes: list[str]
    cells: list[Cell] = []
    chance: float | None = None
    constant: float | None = None
    identical: bool = False
    changes: Changes | None = None
    by_member: Estimate | None = None


def by_metric(items: list[Pair]) -> dict[str, list[Pair]]:
    """The pairs that have each metric, by its name, and with the filter's where that has one."""
    chosen: dict[str, list[Pair]] = {}
    for item in items:
        suffix = "" if item[0].filter == "none" else f",{item[0].filter}"
        for name in item[0].metrics:
            chosen.setdefault(name + suffix, []).append(item)
    return chosen


def compare_items(
    task: str, metric: str, items: list[Pair], *, group: bool, parent: str | None, limit: float = NEAR_TIE
) -> TaskComparison:
    """The row of `metric`; choices whose lead is under `limit` nats are near-ties."""
    name = metric.partition(",")[0]
    columns = [[sample.metrics[name] for sample in side] for side in zip(*items, strict=True)]
    clusters = _labels(items, "cluster", "document")
    table = changed = split = by_member = None
    kind: Kind = "mean"
    if isinstance(columns[0][0], tuple):
        kind = "bits" if name.startswith("bits") else "log-perplexity"
        scale = 1 / math.log(2) if kind == "bits" else 1.0
        base, cand = ([-value[0] * scale for value in column] for column in columns)
        weights = [value[1] for value in columns[0]]
        estimates = (
            ratio_of_sums(base, weights, clusters=clusters),
            ratio_of_sums(cand, weights, clusters=clusters),
            paired_ratio_difference(base, cand, weights, clusters=clusters),
        )
    else:
        base, cand = ([float(value) for value in column] for column in columns)
        tasks = [baseline.task for baseline, _ in items]
        design: dict[str, Any] = {"clusters": clusters, "strata": tasks if len(set(tasks)) > 1 else None}
        estimates = (mean(base, **design), mean(cand, **design), paired_difference(base, cand, **design))
        if group and clusters is None and len(set(tasks)) > 1:
            by_member = paired_difference(base, cand, clusters=tasks)
        if set(base) | set(cand) <= {0.0, 1.0}:
            table = flips(base, cand)
            changed = sum(_answer(baseline) != _answer(candidate) for baseline, candidate in items)
    cells = _cells(items, base, cand) if table else []
    chance = _chance(items) if table else None
    constant = None if chance is None else _constant(items)
    if chance is not None:
        split = ties.changes(items, base, cand, limit)
    notes = _notes(chance, constant, estimates[0], cells) if table else []
    notes += _asides(split, by_member) if parent is None else []
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
    )


def _labels(items: list[Pair], *fields: str) -> list[Any] | None:
    for field in fields:
        if all(field in baseline.cell for baseline, _ in items):
            return [f"{baseline.task}/{baseline.cell[field]}" for baseline, _ in items]
    return None


def _answer(sample: Any) -> Any:
    """What the arm answered: the best choice, the text, or the greedy flags."""
    if sample.generated:
        return sample.generated
    if len(sample.logprobs) > 1:
        return sample.logprobs.index(max(sample.logprobs))
    return sample.greedy


def _chance(items: list[Pair]) -> float | None:
    """Choices have a chance level, generated answers (no logprobs) and single scores have none."""
    k, *others = {len(sample.logprobs) for sample, _ in items}
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


def _asides(split: Changes | None, by_member: Estimate | None) -> list[str]:
    notes = []
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
        if "length" not in cell:
            return []
        depth = float(cell["depth"]) if "depth" in cell else None
        key = (str(cell.get("family", baseline.task)), int(cell["length"]), depth)
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
