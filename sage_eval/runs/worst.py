"""The items on which the candidate loses most, task by task: the report shows them, and their prompts' text is kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sage_eval.runs.comparison import ArmPair, Comparison, TaskComparison
from sage_eval.runs.folder import Run
from sage_eval.runs.pairing import Pair, pair_tasks
from sage_eval.runs.records import Sample
from sage_eval.runs.verdicts import judged_rows


@dataclass(frozen=True)
class Loss:
    """What a pair of answers lost of its metric (0 or less: nothing), and in nats."""

    task: str
    metric: str
    both: Pair
    lost: float
    nats: float

    @property
    def rank(self) -> tuple[float, float, str, int]:
        """Sorts the largest loss first."""
        return -self.lost, -self.nats, self.task, self.both[0].doc_id


def losses(run: Run, comparison: Comparison) -> dict[str, list[Loss]]:
    """What the candidate lost, by judged task or group, the largest loss first."""
    pairs = next(p for p in comparison.pairs if p.role == "candidate")
    margins: Mapping[str, float] = run.manifest.arguments.get("margin") or {}
    rows = {row.task: row for row in judged_rows(pairs, margins)}
    queues: dict[str, list[Loss]] = {}
    paired, _ = pair_tasks(run.arms[pairs.baseline], run.arms[pairs.candidate])
    for task, items in paired.items():
        if row := rows.get(_judged(task, pairs, rows)):
            found = [_loss(task, both, row) for both in items if _has(both[0], row.metric)]
            queues.setdefault(row.task, []).extend(loss for loss in found if loss.lost > 0 or loss.nats > 0)
    return {task: sorted(queue, key=lambda loss: loss.rank) for task, queue in queues.items()}


def _has(sample: Sample, metric: str) -> bool:
    name, _, chosen = metric.partition(",")
    return name in sample.metrics and sample.filter == (chosen or "none")


def _judged(task: str, pairs: ArmPair, metrics: Mapping[str, TaskComparison]) -> str:
    """The task or group by whose metric `task` is judged."""
    parents = {row.task: row.parent for row in pairs.tasks}
    name: str | None = task
    while name is not None and name not in metrics:
        name = parents.get(name)
    return name or ""


def _loss(task: str, both: Pair, row: TaskComparison) -> Loss:
    metric = row.metric.partition(",")[0]
    base, cand = (sample.metrics[metric] for sample in both)
    if isinstance(base, tuple) and isinstance(cand, tuple):
        return Loss(task, metric, both, 0.0, (base[0] - cand[0]) / max(base[1], 1))
    if isinstance(base, tuple) or isinstance(cand, tuple):
        return Loss(task, metric, both, 0.0, 0.0)
    lost = (base - cand) * (1 if row.higher_is_better else -1)
    before, after = map(_sure, both)
    # A right answer gained is no loss, even if its lead is smaller.
    nats = 0.0 if before is None or after is None or lost < 0 else before - after
    return Loss(task, metric, both, lost, nats)


def _sure(sample: Sample) -> float | None:
    """Log-probability of the right choice among the choices."""
    if len(sample.logprobs) < 2 or not isinstance(sample.target, int) or not 0 <= sample.target < len(sample.logprobs):
        return None
    top = max(sample.logprobs)
    return sample.logprobs[sample.target] - top - math.log(math.fsum(math.exp(x - top) for x in sample.logprobs))
