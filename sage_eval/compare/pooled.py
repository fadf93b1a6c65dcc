"""The items by which each task is judged, and all tasks pooled into one answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sage_eval.compare.pairing import Pair, pair_tasks
from sage_eval.compare.rows import labels
from sage_eval.statistics.estimate import Floats
from sage_eval.statistics.pooled import Pooled, pooled, unit_totals
from sage_eval.statistics.sequential import overall
from sage_eval.store.comparison import ArmPair, TaskComparison
from sage_eval.store.folder import Run

SAME_TEXT = ("sage_wikitext", "wikitext", "sage_wikitext_tokens")
"""The same documents, whole and in windows: they would count twice."""


def judged_items(run: Run, pair: ArmPair, rows: Sequence[TaskComparison]) -> dict[str, list[Pair]]:
    """The pairs of samples that have the metric of each of `rows`, by the row's task or group."""
    judged, parents = {row.task: row for row in rows}, {row.task: row.parent for row in pair.tasks}
    found: dict[str, list[Pair]] = {row.task: [] for row in rows}
    for task, items in pair_tasks(run.arms[pair.baseline], run.arms[pair.candidate])[0].items():
        name: str | None = task
        while name is not None and name not in judged:
            name = parents.get(name)
        if name is not None:
            metric, _, chosen = judged[name].metric.partition(",")
            found[name] += [
                both
                for both in items
                if all(metric in sample.metrics and sample.filter == (chosen or "none") for sample in both)
            ]
    return found


def pooled_answer(run: Run, pair: ArmPair, rows: Sequence[TaskComparison]) -> Pooled | None:
    """Whether the candidate differs from the baseline over all of `rows`, texts that are the same counted once."""
    items = judged_items(run, pair, rows)
    same = [name for name in SAME_TEXT if name in items]
    answer = pooled({
        row.task: _losses(items[row.task], row)
        for row in rows
        if row.task not in same[1:] and row.kind not in ("resampled", "kl") and items[row.task]  # of no single item
    })  # fmt: skip
    if answer is None or run.looks is None:
        return answer
    return replace(answer, p=min(1.0, 2 * overall(answer.p / 2, run.looks.shares(run.looks.items))))


def _losses(items: Sequence[Pair], row: TaskComparison) -> Floats:
    """What the candidate lost, by document or item."""
    name = row.metric.partition(",")[0]
    sides: Mapping[int, Floats] = {
        i: np.array([value[0] if isinstance(value := both[i].metrics[name], tuple) else value for both in items])
        for i in (0, 1)
    }
    # Of log-likelihoods less is a loss, whichever way the metric that is made of them points.
    sign = 1 if row.higher_is_better or row.kind in ("log-perplexity", "bits") else -1
    return unit_totals(sign * (sides[0] - sides[1]), labels(list(items), "cluster", "document"))
