"""The dose-response of a task: how far each arm under outlier stress is from the baseline, and the first dose seen.

The model's function is the same at every dose, so the baseline on the unstressed model is the right one to compare
with: what an arm loses, its attention backend lost. These arms are no controls. An unseen small dose is a fact about
the instrument's detection limit and harms no verdict; a large one that is seen proves nothing for a task whose control
was not.
"""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.verdict import Evidence, unseen_control

ARM = "stress-"
"""An arm of dose 16 is called `stress-16`."""


class Dose(BaseModel):
    """One arm under stress − baseline, in the metric's unit.

    `seen` as for a control: the loss is significant, at least the margin, and greater than the candidate's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    dose: int
    difference: Estimate
    seen: bool


def dose_of(arm: str) -> int:
    """16 for `stress-16`."""
    return int(arm.removeprefix(ARM))


def response(evidence: Evidence, differences: Mapping[str, Estimate]) -> list[Dose]:
    """The doses of one task in ascending order; `differences` to the baseline are by arm."""
    return sorted(
        (
            Dose(
                arm=arm,
                dose=dose_of(arm),
                difference=difference,
                seen=unseen_control(replace(evidence, controls={arm: difference})) is None,
            )
            for arm, difference in differences.items()
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
