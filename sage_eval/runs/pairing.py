"""Putting two arms' answers side by side, item by item; refused where they were not asked the same."""

from sage_eval.errors import DataError
from sage_eval.runs.folder import Arm
from sage_eval.runs.records import Sample

Pair = tuple[Sample, Sample]


def pair(baseline: Arm, candidate: Arm) -> dict[str, list[Pair]]:
    """Per task the pairs (baseline's sample, candidate's sample), in the baseline's order.

    Raises `DataError` where an item is missing in one arm or the two prompts' hashes differ: a difference between the
    arms would then be a difference between the questions.
    """
    other = {sample.key: sample for sample in candidate.samples}
    ours = {sample.key for sample in baseline.samples}
    lonely = [*(key for key in other if key not in ours), *(key for key in ours if key not in other)]
    if lonely:
        task, doc_id, _ = lonely[0]
        raise DataError(
            f"arms {baseline.name} and {candidate.name} did not answer the same items: {len(lonely)} are in one only "
            f"(first: {task}, item {doc_id}); run again with --fresh"
        )
    tasks: dict[str, list[Pair]] = {}
    for sample in baseline.samples:
        twin = other[sample.key]
        if sample.prompt != twin.prompt:
            raise DataError(
                f"{sample.task}, item {sample.doc_id}: arms {baseline.name} and {candidate.name} were given different "
                "prompts, so they cannot be compared; did the data or the tokenizer change? run again with --fresh"
            )
        tasks.setdefault(sample.task, []).append((sample, twin))
    return tasks
