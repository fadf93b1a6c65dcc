"""The dose-response of a task: how far each arm under outlier stress is from the baseline, and the first dose seen.

The model's function is the same at every dose, so the baseline on the unstressed model is the right one to compare
with: what an arm loses, its attention backend lost. They are controls: a dose that is seen proves that the task can see
damage, and an unseen small one is a fact about the instrument's detection limit that harms no verdict.
"""

from collections.abc import Iterable

from sage_eval.statistics.verdict import Evidence, seen_controls
from sage_eval.store.comparison import Dose

ARM = "stress-"
"""An arm of dose 16 is called `stress-16`."""


def dose_of(arm: str) -> int:
    """16 for `stress-16`."""
    return int(arm.removeprefix(ARM))


def strongest_first(arms: Iterable[str]) -> list[str]:
    """The arms under stress among `arms`, in the order in which they are tested."""
    return sorted((arm for arm in arms if arm.startswith(ARM)), key=dose_of, reverse=True)


def response(evidence: Evidence) -> list[Dose]:
    """The doses among the controls of one task, in ascending order."""
    seen = seen_controls(evidence)
    return sorted(
        (
            Dose(arm=arm, dose=dose_of(arm), difference=difference, seen=arm in seen)
            for arm, difference in evidence.controls.items()
            if arm.startswith(ARM)
        ),
        key=lambda dose: dose.dose,
    )


def detection_limit(doses: list[Dose]) -> int | None:
    """The smallest dose that is seen, all larger ones being seen too; None where the largest is not.

    `doses` ascend. A lone dose seen below one that is not is chance, or not the stress's doing.
    """
    limit = None
    for dose in reversed(doses):
        if not dose.seen:
            break
        limit = dose.dose
    return limit
