"""KL divergence as a metric that is judged: what an arm has more than the floor, as one row a text task and arm.

The floor is the arm that should equal the baseline and is farthest from it: of two exact kernels some divergence is
rounding. Without one the divergence itself is judged. A floor arm's own row has its divergence.
"""

from dataclasses import replace

from sage_eval.compare.pairs import Pairs
from sage_eval.store.comparison import ArmPair, TaskComparison
from sage_eval.store.fidelity import FidelityRecord, TaskFidelity

METRIC = "kl_divergence"
_SUFFIX = " KLD"


def name_of(task: str) -> str:
    """The row of a text task's divergence: a task of its own, as it is judged beside perplexity."""
    return task + _SUFFIX


def text_of(task: str) -> str:
    """The text task that a row is of."""
    return task.removesuffix(_SUFFIX)


def with_divergence(found: Pairs, record: FidelityRecord | None) -> Pairs:
    """`found` with a row for each text task of `record` in each arm, and against each floor arm."""
    if record is None:
        return found
    by_arm: dict[str, list[TaskFidelity]] = {}
    # Runs that were made before the excess was kept are judged as they were.
    known = {task.task for task in record.tasks if task.excess or not any(x.role == "floor" for x in record.tasks)}
    for task in record.tasks:
        if task.task in known:
            by_arm.setdefault(task.arm, []).append(task)
    floors = {
        task.task: max(
            (other for other in record.tasks if other.role == "floor" and other.task == task.task),
            key=lambda other: other.statistics.kld.value,
            default=None,
        )
        for task in record.tasks
    }

    def joined(pair: ArmPair, against: str | None) -> ArmPair:
        parents = {row.task: row.parent for row in pair.tasks}
        rows = [
            row
            for task in by_arm.get(pair.candidate, [])
            if task.task in parents and (row := _row(task, floors[task.task], against, parents[task.task])) is not None
        ]
        return pair.model_copy(update={"tasks": [*pair.tasks, *rows]})

    above = {name: {floor: joined(pair, floor) for floor, pair in pairs.items()} for name, pairs in found.above.items()}
    return replace(found, arms=[joined(pair, None) for pair in found.arms], above=above)


def _row(
    task: TaskFidelity, floor: TaskFidelity | None, against: str | None, parent: str | None
) -> TaskComparison | None:
    """None where the excess over the floor is not known, as of runs that were made before it was kept."""
    own = task.statistics.kld
    nothing = replace(
        own, value=0.0, se=0.0, low=0.0, high=0.0, p=1.0, df=own.units - 1.0, method="t", resampled=None, skewness=None
    )
    nothing = replace(own, value=0.0) if own.se is None else nothing
    name = against or (None if floor is None or task.role == "floor" else floor.arm)
    # Zeros alone would be taken for answers that are right or wrong.
    difference = task.excess.get(name) if name else own if own.value else nothing
    if difference is None:
        return None
    return TaskComparison(
        task=name_of(task.task),
        group=False,
        parent=parent,
        metric=METRIC,
        kind="kl",
        higher_is_better=False,
        n=task.statistics.positions,
        baseline=nothing,
        candidate=own,
        difference=difference,
        flips=None,
        changed=None,
        notes=[],
        identical=own.value == 0,
    )
