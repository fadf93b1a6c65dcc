"""How the arms of a run stand while it goes on: scores of the items that are finished, each with its interval.

Items finish in an order that is not random: task after task, and what is short or shares a prompt first. And whoever
looks often sees a difference sooner or later that is none. So these numbers show that a run is healthy; no verdict
follows from them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_eval.compare.pairing import Pair
from sage_eval.compare.pairs import leaves_of
from sage_eval.compare.rows import columns, labels
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import mean, paired_difference, paired_ratio_difference, ratio_of_sums
from sage_eval.store.comparison import MetricKind
from sage_eval.store.folder import Arm
from sage_eval.store.running import Asked
from sage_eval.store.samples import Sample

Items = tuple[Asked, Sequence[Sample]]
"""What an arm was asked, and what is finished of it."""


@dataclass(frozen=True)
class Standing:
    """`score` of an arm's finished items, and the `difference` to the baseline over those that both have.

    Both are in the units of `Estimate`: perplexities as logarithms. A group's items count alike, whatever their task.
    """

    name: str
    metric: str
    arm: str
    kind: MetricKind
    share: bool
    """Whether each item is right or wrong."""
    score: Estimate
    difference: Estimate | None


def finished(arm: Arm) -> Items:
    """Of an arm that is finished."""
    results, samples = arm.results, arm.samples
    kinds = {task: {name: found["kind"] for name, found in each.items()} for task, each in
             results.get("metrics", {}).items()}  # fmt: skip
    items = {task: len(ids) for task, ids in _documents(samples).items()}
    groups = outermost({name: leaves_of(name, results) for name in results.get("group_subtasks", {})})
    return Asked(items=items, requests={}, groups=groups, kinds=kinds), samples


def outermost(groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """By task the largest of the `groups` that it is in."""
    return {task: group for group in sorted(groups, key=lambda name: len(groups[name])) for task in groups[group]}


def count(items: Items) -> dict[str, int]:
    """Finished items by task."""
    return {task: len(ids) for task, ids in _documents(items[1]).items()}


def standings(arms: Mapping[str, Items]) -> list[Standing]:
    """A row for each task (or group), metric and arm; `arms` by name, the baseline first."""
    found: list[Standing] = []
    sorted_out = {name: _by_metric(items) for name, items in arms.items()}
    base_name = next(iter(arms), "")
    for name, metric in dict.fromkeys(key for each in sorted_out.values() for key in each):
        for arm, each in sorted_out.items():
            if samples := each.get((name, metric)):
                base = None if arm == base_name else sorted_out[base_name].get((name, metric))
                found += _standing(name, metric, arm, _kind(arms[arm][0], samples[0], metric), samples, base)
    return found


def _documents(samples: Sequence[Sample]) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {}
    for sample in samples:
        found.setdefault(sample.task, Counter())[sample.doc_id] += 1
    return found


def _by_metric(items: Items) -> dict[tuple[str, str], list[Sample]]:
    found: dict[tuple[str, str], list[Sample]] = {}
    asked, samples = items
    for sample in sorted(samples, key=lambda sample: sample.key):  # whatever order they finished in
        suffix = "" if sample.filter == "none" else f",{sample.filter}"
        for metric in sample.metrics:
            found.setdefault((asked.groups.get(sample.task, sample.task), metric + suffix), []).append(sample)
    return found


def _kind(asked: Asked, sample: Sample, metric: str) -> MetricKind:
    return asked.kinds.get(sample.task, {}).get(metric.partition(",")[0]) or "mean"


def _standing(
    name: str, metric: str, arm: str, kind: MetricKind, samples: Sequence[Sample], base: Sequence[Sample] | None
) -> list[Standing]:
    bare = metric.partition(",")[0]
    other = {sample.key: sample for sample in base or ()}
    pairs: list[Pair] = [(other[sample.key], sample) for sample in samples if sample.key in other]
    try:
        values, weights = columns(samples, bare, kind)
        design = _design([(sample, sample) for sample in samples], weights)
        score = mean(values, **design) if weights is None else ratio_of_sums(values, weights, **design)
        difference = None
        if pairs:
            (before, weights), (after, _) = (columns(side, bare, kind) for side in zip(*pairs, strict=True))
            design = _design(pairs, weights)
            difference = (
                paired_difference(before, after, **design)
                if weights is None
                else paired_ratio_difference(before, after, weights, **design)
            )
    except (ValueError, TypeError):  # texts without a word so far; tasks of a group that score in different ways
        return []
    share = kind == "mean" and {*values} <= {0.0, 1.0}
    return [Standing(name, metric, arm, kind, share, score, difference)]


def _design(pairs: list[Pair], weights: Any) -> dict[str, Any]:
    clusters = labels(pairs, "cluster", "document")
    if weights is not None:
        return {"clusters": clusters}
    tasks = [sample.task for sample, _ in pairs]
    return {"clusters": clusters, "strata": tasks if len(set(tasks)) > 1 else None}


def shown(standing: Standing, estimate: Estimate) -> tuple[float, float | None, float | None]:
    """The score as lm-eval reports it (perplexities are exponentials), and the ends of its interval."""
    ends = (estimate.value, estimate.low, estimate.high)
    if standing.kind != "log-perplexity":
        return ends
    value, low, high = (None if end is None else math.exp(min(end, 700.0)) for end in ends)
    return value or 0.0, low, high
