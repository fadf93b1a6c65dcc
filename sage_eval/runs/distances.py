"""`fidelity.json` from the arms' top-k lists: how far each arm's next-token distributions are from the baseline's."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sage_eval.runs import topk
from sage_eval.runs.fidelity import FidelityRecord, Histogram, PositionBin, TaskFidelity
from sage_eval.runs.folder import TOPK, Arm, Run
from sage_eval.runs.topk import TopLists
from sage_eval.statistics.divergence import divergence
from sage_eval.statistics.fidelity import fidelity
from sage_eval.statistics.paired import paired_difference

EDGES = np.geomspace(1e-9, 10.0, 41)
"""Four bins a decade; under 1e-9 nats is the rounding of float32 log-probabilities."""


def measure(run: Run) -> FidelityRecord | None:
    """Every arm that has lists against the baseline; what an earlier call measured is kept where an arm's are gone.

    None where there is nothing to record. Raises `DataError` where two arms' lists cannot be paired.
    """
    baseline, *others = run.arms.values()
    known = run.fidelity.tasks if run.fidelity and run.fidelity.baseline == baseline.name else []
    mine = topk.read(baseline.folder / TOPK, baseline.name)
    documents = _documents(baseline)
    tasks: list[TaskFidelity] = []
    for other in others:
        theirs = topk.read(other.folder / TOPK, other.name) if mine else None
        if mine is None or theirs is None:
            tasks += [task for task in known if task.arm == other.name]
            continue
        tasks += _distances(mine, theirs, other, documents)
    return FidelityRecord(schema_version=1, baseline=baseline.name, tasks=tasks) if tasks else None


def _documents(arm: Arm) -> dict[tuple[str, int], str]:
    """The text that an item is part of, where the task says so; an item is a text of its own otherwise."""
    return {
        (sample.task, sample.doc_id): f"d{sample.cell['document']}"
        for sample in arm.samples
        if "document" in sample.cell
    }


def _distances(
    mine: TopLists, theirs: TopLists, arm: Arm, documents: dict[tuple[str, int], str]
) -> Iterator[TaskFidelity]:
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
        yield TaskFidelity(
            task=task,
            arm=arm.name,
            role=arm.record.spec.role,
            k=k,
            statistics=fidelity(apart, base, cand, clusters),
            kld_histogram=histogram(apart.kl),
            by_position=by_position(positions.context, base, cand, clusters),
        )


def histogram(kl: npt.NDArray[np.float64]) -> Histogram:
    """Counts of positions by KLD in nats, [N], between `EDGES`; zeros are below the first."""
    counts, _ = np.histogram(kl, EDGES)
    below, above = int((kl < EDGES[0]).sum()), int((kl > EDGES[-1]).sum())
    return Histogram(edges=EDGES.tolist(), counts=counts.tolist(), below=below, above=above)


def by_position(
    context: npt.NDArray[np.int64],
    base: npt.NDArray[np.float32],
    cand: npt.NDArray[np.float32],
    clusters: npt.NDArray[np.int64],
) -> list[PositionBin]:
    """NLL difference (candidate − baseline, nats) by tokens of context in powers of two, all [N]; no empty bins."""
    bins = []
    power = np.frexp(context)[1] - 1  # floor(log2), exactly
    for exponent in range(int(power.max()) + 1):
        chosen = power == exponent
        if chosen.any():
            difference = paired_difference(-base[chosen], -cand[chosen], clusters=clusters[chosen])
            count = int(chosen.sum())
            bins.append(PositionBin(low=2**exponent, high=2 ** (exponent + 1), n=count, difference=difference))
    return bins
