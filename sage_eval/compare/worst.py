"""The items on which the candidate loses most, task by task: the report shows them, and their prompts' text is kept."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage_eval.compare.pairing import Pair
from sage_eval.compare.pooled import judged_items
from sage_eval.compare.ranking import ranked
from sage_eval.compare.ties import RAW
from sage_eval.compare.verdicts import judged_rows
from sage_eval.errors import DataError
from sage_eval.store.comparison import ArmPair, Comparison, TaskComparison
from sage_eval.store.files import write_jsonl_zst
from sage_eval.store.folder import PROMPTS, SCHEMA_VERSION, Run, read_prompts
from sage_eval.store.samples import Sample

KEPT = 20
"""Prompts whose text is kept, for each judged task or group."""


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
    """What the candidates lost, by judged task or group (and candidate, of several), the largest loss first."""
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    margins: Mapping[str, float] = run.manifest.arguments.get("margin") or {}
    if len(candidates) == 1:
        return _losses(run, candidates[0], margins)
    return {
        f"{task} ({pair.candidate})": [replace(loss, task=f"{loss.task} ({pair.candidate})") for loss in ranked]
        for pair in candidates
        for task, ranked in _losses(run, pair, margins).items()
    }


def _losses(run: Run, pairs: ArmPair, margins: Mapping[str, float]) -> dict[str, list[Loss]]:
    rows = {row.task: row for row in judged_rows(pairs, margins)}
    queues = {}
    for name, items in judged_items(run, pairs, list(rows.values())).items():
        found = [_loss(both[0].task, both, rows[name]) for both in items]
        queues[name] = sorted((loss for loss in found if loss.lost > 0 or loss.nats > 0), key=lambda loss: loss.rank)
    return queues


def _loss(task: str, both: Pair, row: TaskComparison) -> Loss:
    metric = row.metric.partition(",")[0]
    base, cand = (sample.metrics[metric] for sample in both)
    before, after = (value[0] / max(value[1], 1) if isinstance(value, tuple) else value for value in (base, cand))
    if row.kind in ("log-perplexity", "bits"):
        return Loss(task, metric, both, 0.0, before - after)
    lost = (before - after) * (1 if row.higher_is_better else -1)
    sure, unsure = map(_sure, both)
    # A right answer gained is no loss, even if its lead is smaller.
    nats = 0.0 if sure is None or unsure is None or lost < 0 else sure - unsure
    return Loss(task, metric, both, lost, nats)


def _sure(sample: Sample) -> float | None:
    """Log-probability of the right choice among the choices."""
    scores = ranked(sample, RAW)
    if len(scores) < 2 or not isinstance(sample.target, int) or not 0 <= sample.target < len(scores):
        return None
    top = max(scores)
    return scores[sample.target] - top - math.log(math.fsum(math.exp(x - top) for x in scores))


def keep_prompts(run: Run, comparison: Comparison) -> None:
    """Make the arms' prompts one file, with the text of those on which the candidate lost most. Does so once.

    Every prompt's hash is in the samples; the text that is not kept is in the data set, at (task, doc_id).
    """
    found = [arm.folder / PROMPTS for arm in run.arms.values() if (arm.folder / PROMPTS).exists()]
    if not found:
        return
    known: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(DataError):
        known = read_prompts(run.folder / PROMPTS)
    wanted = {loss.both[0].prompt for ranked in losses(run, comparison).values() for loss in ranked[:KEPT]}
    for source in found:
        lacking = wanted - known.keys()
        known |= {name: line for name, line in read_prompts(source).items() if name in lacking}
    write_jsonl_zst(run.folder / PROMPTS, [{"schema_version": SCHEMA_VERSION}, *known.values()])
    for source in found:
        source.unlink()
