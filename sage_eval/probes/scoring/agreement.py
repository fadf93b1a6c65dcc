"""Whether the columns measured the same thing: their answers beside those of one of them. Pure functions."""

import math
from typing import Any

from sage_eval.probes.scoring.record import Agreement, Column

Answers = dict[str, Any]
"""Document → log-probabilities of its choices or of its text, or the text generated."""

TOLERANCE = {"acc": 0.02, "word_perplexity": 0.005, "token_perplexity": 0.005}
"""Absolute for accuracies, relative for perplexities. Backends, kernels and batches of a 16-bit model differ by
rounding: it turns ties of a multiple-choice question, in either direction."""
TURNED = 3
"""Items by which accuracies may differ, however few items there are."""
FIRST = "hf"
"""The column to compare with, where it has the task: it shares no engine with the others."""


def reference(columns: dict[str, Column], task: str) -> str | None:
    """The column that `task`'s answers are compared with: `hf`, else the first that has it."""
    having = [name for name, column in columns.items() if task in column.tasks and column.tasks[task].seconds]
    return FIRST if FIRST in having else next(iter(having), None)


def compare(columns: dict[str, Column], answers: dict[str, dict[str, Answers]]) -> None:
    """Set `agreement` of every finished task; an unequal score becomes the task's `error`.

    `answers` are those of each column and task.
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
            mine = column.tasks[task]
            assert mine.score is not None and theirs.score is not None and mine.metric
            mine.agreement = found = agreement(
                base, mine.metric, mine.score, theirs.score, answers[name][task], answers[base][task]
            )
            mine.error = None if found.equal else f"{mine.metric} {mine.score:.5g} is not {base}'s {theirs.score:.5g}"


def agreement(base: str, metric: str, score: float, other: float, mine: Answers, theirs: Answers) -> Agreement:
    """Two columns' scores and answers to the same documents."""
    difference = score - other if metric == "acc" else score / other - 1
    tolerance = max(TOLERANCE[metric], TURNED / len(theirs)) if metric == "acc" else TOLERANCE[metric]
    same = [_choice(mine[key]) == _choice(theirs[key]) for key in mine if key in theirs]
    gaps = [
        abs(a - b)
        for key in mine
        if key in theirs and not isinstance(mine[key], str)
        for a, b in zip(mine[key], theirs[key], strict=True)
    ]
    complete = mine.keys() == theirs.keys() and math.isfinite(difference)
    return Agreement(
        reference=base,
        equal=complete and abs(difference) <= tolerance + 1e-9,
        score_difference=difference,
        tolerance=tolerance,
        same_answers=sum(same) / len(same) if same else 0.0,
        mean_difference=sum(gaps) / len(gaps) if gaps else None,
        largest_difference=max(gaps) if gaps else None,
    )


def _choice(answer: Any) -> Any:
    return answer if isinstance(answer, str) else max(range(len(answer)), key=answer.__getitem__)
