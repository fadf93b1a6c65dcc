"""`fidelity.json` from the arms' top-k lists: how far each arm's next-token distributions are from the baseline's."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sage_eval.errors import DataError
from sage_eval.statistics.divergence import divergence
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.fidelity import fidelity
from sage_eval.statistics.paired import paired_difference
from sage_eval.store import topk
from sage_eval.store.fidelity import (
    FidelityRecord,
    Spread,
    TaskFidelity,
    by_position,
    histogram,
    kl_by_position,
    write_positions,
)
from sage_eval.store.folder import POSITIONS, TOPK, Arm, Run
from sage_eval.store.topk import TopLists


def measure(run: Run, *, keep: bool = True) -> FidelityRecord | None:
    """Every arm that has lists against the baseline; what an earlier call measured is kept where an arm's are gone.

    None where there is nothing to record. With `keep` the KL divergence at each position is written where all arms have
    lists. Raises `DataError` where two arms' lists cannot be paired.
    """
    baseline, *others = run.arms.values()
    known = _known(run, baseline.name)
    mine = topk.read(baseline.folder / TOPK, baseline.name)
    documents = _documents(baseline)
    tasks: list[TaskFidelity] = []
    spread: dict[str, Spread] = {}
    for other in others:
        theirs = topk.read(other.folder / TOPK, other.name) if mine else None
        if mine is None or theirs is None:
            tasks += [task for task in known if task.arm == other.name]
            continue
        tasks += _distances(mine, theirs, other, documents, spread)
    if keep and spread and all(found.kl.keys() == {other.name for other in others} for found in spread.values()):
        write_positions(run.folder / POSITIONS, spread, [other.name for other in others])
    floors = [other.name for other in others if other.record.spec.role == "floor"]
    before = {(task.task, task.arm): task.excess for task in known}
    tasks = [_above(task, spread.get(task.task), floors, before.get((task.task, task.arm), {})) for task in tasks]
    return FidelityRecord(schema_version=1, baseline=baseline.name, tasks=tasks) if tasks else None


def _above(
    task: TaskFidelity, spread: Spread | None, floors: Sequence[str], before: Mapping[str, Estimate]
) -> TaskFidelity:
    """The record with its excess over each floor arm whose positions are known as well, or were `before`."""
    if spread is None or task.arm not in spread.kl or task.arm in floors:
        return task
    kl = spread.kl[task.arm].astype(np.float64)
    excess = {
        floor: paired_difference(spread.kl[floor].astype(np.float64), kl, clusters=spread.documents)
        for floor in floors
        if floor in spread.kl
    }
    return task.model_copy(update={"excess": {**before, **excess}})


def _known(run: Run, baseline: str) -> list[TaskFidelity]:
    with contextlib.suppress(DataError):  # what is derived is derived again
        if run.fidelity and run.fidelity.baseline == baseline:
            return run.fidelity.tasks
    return []


def _documents(arm: Arm) -> dict[tuple[str, int], str]:
    """The text that an item is part of, where the task says so; an item is a text of its own otherwise."""
    return {
        (sample.task, sample.doc_id): f"d{sample.cell['document']}"
        for sample in arm.samples
        if "document" in sample.cell
    }


def _distances(
    mine: TopLists,
    theirs: TopLists,
    arm: Arm,
    documents: dict[tuple[str, int], str],
    spread: dict[str, Spread],
) -> Iterator[TaskFidelity]:
    """One record a task; what it is made of goes into `spread`."""
    for task, positions in topk.pair(mine, theirs).items():
        base, cand = positions.target_logprobs
        items, item = np.unique(positions.doc_ids, return_inverse=True)
        labels = [documents.get((task, doc_id), f"i{doc_id}") for doc_id in items.tolist()]
        clusters = np.unique(labels, return_inverse=True)[1][item]
        k = min(array.shape[1] for array in positions.ids)
        # Best first: the longer lists begin with what shorter ones would have been.
        base_ids, cand_ids = (array[:, :k] for array in positions.ids)
        base_top, cand_top = (array[:, :k] for array in positions.logprobs)
        apart = divergence(base_top, cand_top, base_ids, cand_ids)
        shared = spread.setdefault(task, Spread(positions.doc_ids, clusters, positions.context, {}))
        shared.kl[arm.name] = apart.kl.astype(np.float16)
        yield TaskFidelity(
            task=task,
            arm=arm.name,
            role=arm.record.spec.role,
            k=k,
            statistics=fidelity(apart, base, cand, clusters),
            kld_histogram=histogram(apart.kl),
            by_position=by_position(positions.context, base, cand, clusters),
            kl_by_position=kl_by_position(positions.context, apart.kl, clusters),
        )
