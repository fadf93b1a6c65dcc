"""Whether the columns measured the same thing: their answers beside those of one of them. Pure functions.

Engines, kernels and batches round differently, so that the same weights do not give the same bits everywhere. What is
still called equal depends on what the answers of a task are:

- *choices*: an item may have another choice only where the reference's lead over that very choice is under `NEAR` nats,
  which is what rounding moves; and log-probabilities may differ by no more than `MEAN` on average, so that another
  prompt or a damaged kernel is seen even where it chooses the same.
- *texts* that are only scored: their perplexity, by half a per cent.
- *texts* that are generated: their score, by one item in fifty; in 16 bits by one in any case.
"""

import math
from typing import Any

from sage_eval.probes.scoring.record import Agreement, Column, Task
from sage_eval.statistics.changes import NEAR_TIE

Answers = dict[str, Any]
"""Document → log-probabilities of its choices or of its text, or the text generated."""

NEAR = {16: NEAR_TIE, 32: 0.01}
"""By the bits of the model's dtype, in nats. In bf16 FA3 and Triton, on an H100, turn 61 of the bundled model's 14,042
answers to MMLU, all with a lead under 0.08. In float32 it is the TF32 of Triton's kernels that is allowed for: plain
float32 differs by 1e-5."""
MEAN = {16: 0.05, 32: 0.01}
"""Likewise, of the log-probabilities of a task's choices. There FA3 and Triton differ by 0.012 on average, INT8
attention by 0.023, and what is damaged by more: stress × 16 by 0.19, INT4 by 0.39."""
PERPLEXITY = 0.005
"""Relative."""
GENERATED = 50
"""Items in which the scores may differ by one."""
FIRST = "hf"
"""The column to compare with, where it has the task: it shares no engine with the others."""


def reference(columns: dict[str, Column], task: str) -> str | None:
    """The column that `task`'s answers are compared with: `hf`, else the first that has it."""
    having = [name for name, column in columns.items() if task in column.tasks and column.tasks[task].seconds]
    return FIRST if FIRST in having else next(iter(having), None)


def compare(columns: dict[str, Column], answers: dict[str, dict[str, Answers]], bits: int) -> None:
    """Set `agreement` of every finished task; unequal answers become the task's `error`.

    `answers` are those of each column and task, `bits` those of the model's dtype.
    """
    for task in {task for column in columns.values() for task in column.tasks}:
        base = reference(columns, task)
        if base is None:
            continue
        theirs = columns[base].tasks[task]
        theirs.agreement = theirs.error = None
        for name, column in columns.items():
            if task not in column.tasks or name == base or column.tasks[task].seconds is None:
                continue
            mine, ours, others = column.tasks[task], answers[name][task], answers[base][task]
            mine.agreement = found = agreement(base, mine, theirs, ours, others, bits)
            if _shape(ours) != _shape(others):
                mine.error = f"the {len(ours)} items answered, or their choices, are not the {len(others)} of {base}"
            else:
                mine.error = None if found.equal else _error(mine, theirs, found, MEAN[bits])


def agreement(base: str, mine: Task, theirs: Task, answers: Answers, others: Answers, bits: int) -> Agreement:
    """One column's `answers` and score beside the reference's, `others`; both tasks are finished."""
    assert mine.score is not None and theirs.score is not None
    common = [key for key in answers if key in others]
    gaps = [
        abs(a - b)
        for key in common
        if not isinstance(answers[key], str)
        for a, b in zip(answers[key], others[key], strict=False)
    ]
    turned = [key for key in common if _choice(answers[key]) != _choice(others[key])]
    mean = sum(gaps) / len(gaps) if gaps else None
    widest = None
    if mine.metric != "acc":
        difference, tolerance = mine.score / theirs.score - 1, PERPLEXITY
        within = abs(difference) <= tolerance
    elif mean is None:
        difference = mine.score - theirs.score
        tolerance = max(len(others) // GENERATED, int(bits < 32)) / len(others)
        within = abs(difference) <= tolerance + 1e-9
    else:
        difference, tolerance = mine.score - theirs.score, NEAR[bits]
        widest = max((_lead(others[key], _choice(answers[key])) for key in turned), default=None)
        within = mean <= MEAN[bits] and (widest or 0) < tolerance
    return Agreement(
        reference=base,
        equal=within and _shape(answers) == _shape(others) and math.isfinite(difference),
        score_difference=difference,
        tolerance=tolerance,
        same_answers=1 - len(turned) / len(common) if common else 0.0,
        turned=len(turned),
        widest=widest,
        mean_difference=mean,
        largest_difference=max(gaps) if gaps else None,
    )


def _error(mine: Task, theirs: Task, found: Agreement, mean: float) -> str:
    what = f"{mine.metric} {mine.score:.5g} beside {found.reference}'s {theirs.score:.5g}"
    if found.mean_difference is None or mine.metric != "acc":
        return f"{what}: {found.tolerance:.2g} is tolerated"
    lead = f", by a lead of up to {found.widest:.2g} nats" if found.widest is not None else ""
    return (
        f"{what}: {found.turned} other choices{lead}; log-probabilities differ by {found.mean_difference:.2g} on "
        f"average ({found.tolerance:g} is tolerated of a lead, {mean:g} of the average)"
    )


def _shape(answers: Answers) -> dict[str, int | None]:
    """How many choices each item has; None for a text."""
    return {key: None if isinstance(answer, str) else len(answer) for key, answer in answers.items()}


def _choice(answer: Any) -> Any:
    return answer if isinstance(answer, str) else max(range(len(answer)), key=answer.__getitem__)


def _lead(logprobs: list[float], choice: int) -> float:
    """Of the best choice over `choice`, in nats."""
    return max(logprobs) - logprobs[choice]
