"""Putting two arms' answers side by side, item by item; refused where they were not asked the same."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from sage_eval.errors import DataError
from sage_eval.store.samples import Sample

Pair = tuple[Sample, Sample]


class Answered(Protocol):
    """An arm, as far as pairing looks: `store.folder.Arm`, or answers that another tool wrote."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> Sequence[Sample]: ...


def pair_tasks(baseline: Answered, candidate: Answered) -> tuple[dict[str, list[Pair]], dict[str, str]]:
    """As `pair`, task by task: those that can be paired, and why the others cannot.

    Raises `DataError` where none can.
    """
    sides = [_by_task(arm) for arm in (baseline, candidate)]
    paired: dict[str, list[Pair]] = {}
    refused: dict[str, str] = {}
    for task in dict.fromkeys([*sides[0], *sides[1]]):
        try:
            paired[task] = _pair(task, sides[0].get(task, []), sides[1].get(task, []), (baseline.name, candidate.name))
        except DataError as error:
            refused[task] = str(error)
    if not paired:
        raise DataError(next(iter(refused.values()), f"arms {baseline.name} and {candidate.name} answered nothing"))
    return paired, refused


def pair(baseline: Answered, candidate: Answered) -> dict[str, list[Pair]]:
    """Per task the pairs (baseline's sample, candidate's sample), in the baseline's order.

    Raises `DataError` where an item is missing in one arm, an arm has one twice, or the two prompts' hashes differ: a
    difference between the arms would then be a difference between the questions.
    """
    paired, refused = pair_tasks(baseline, candidate)
    if refused:
        raise DataError(next(iter(refused.values())))
    return paired


def _by_task(arm: Answered) -> dict[str, list[Sample]]:
    tasks: dict[str, list[Sample]] = {}
    for sample in arm.samples:
        tasks.setdefault(sample.task, []).append(sample)
    return tasks


def _pair(task: str, ours: list[Sample], theirs: list[Sample], names: tuple[str, str]) -> list[Pair]:
    for name, side in zip(names, (ours, theirs), strict=True):
        if twice := [key for key, count in Counter(sample.key for sample in side).items() if count > 1]:
            raise DataError(
                f"arm {name} answered {len(twice)} items more than once (first: {task}, item {twice[0][1]}): which "
                "answer counts is not known; run again with --fresh"
            )
    other = {sample.key: sample for sample in theirs}
    keys = {sample.key for sample in ours}
    lonely = [*(key for key in other if key not in keys), *(key for key in keys if key not in other)]
    arms = " and ".join(names)
    if lonely:
        raise DataError(
            f"arms {arms} did not answer the same items: {len(lonely)} are in one only (first: {task}, item "
            f"{lonely[0][1]}); run again with --fresh"
        )
    for sample in ours:
        if sample.prompt != other[sample.key].prompt:
            raise DataError(
                f"{task}, item {sample.doc_id}: arms {arms} were given different prompts, so they cannot be compared; "
                "did the data or the tokenizer change? run again with --fresh"
            )
    return [(sample, other[sample.key]) for sample in ours]
