"""Which answers changed, and which of the changes mean something.

An answer whose lead over the runner-up is smaller than the rounding of the logits themselves flips on a change of
batch size alone. Such near-ties are counted apart from real changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .estimate import column, same_length
from .proportions import Flips, binary, flips

NEAR_TIE = 0.125
"""Default margin in nats: the distance between neighbouring bfloat16 numbers from 16 to 32, where logits live."""


@dataclass(frozen=True)
class Changes:
    """Flips of correctness and changes of the answer, each with its share of near-ties; `n` items.

    `changed` counts any other answer, also wrong → another wrong one ("all flips" of arXiv:2407.09141).
    """

    n: int
    near_tie: float
    flips: Flips
    flips_near_tie: Flips
    flips_real: Flips
    changed: int
    changed_near_tie: int


def answer_changes(
    base_answer: npt.ArrayLike,
    cand_answer: npt.ArrayLike,
    base_correct: npt.ArrayLike,
    cand_correct: npt.ArrayLike,
    base_margin: npt.ArrayLike,
    near_tie: float = NEAR_TIE,
) -> Changes:
    """Count changes, all arguments [n]: answers of any type, correctness of 0 and 1, and the baseline's margin in nats.

    The margin is the baseline's best minus its second-best log-likelihood: the candidate's own would let a damaged arm
    excuse itself. An item is a near-tie below `near_tie`. ValueError on unequal lengths or a negative margin.
    """
    before, after = np.asarray(base_answer), np.asarray(cand_answer)
    base, cand = binary(base_correct, "base_correct"), binary(cand_correct, "cand_correct")
    margin = column(base_margin, "base_margin")
    n = same_length(base_answer=before, cand_answer=after, base_correct=base, cand_correct=cand, base_margin=margin)
    if (margin < 0).any():
        raise ValueError("base_margin: best minus second-best log-likelihood cannot be negative")
    tie, changed = margin < near_tie, before != after
    return Changes(
        n=n,
        near_tie=near_tie,
        flips=flips(base, cand),
        flips_near_tie=_flips_or_none(base[tie], cand[tie]),
        flips_real=_flips_or_none(base[~tie], cand[~tie]),
        changed=int(changed.sum()),
        changed_near_tie=int((changed & tie).sum()),
    )


def _flips_or_none(base: npt.NDArray[np.bool_], cand: npt.NDArray[np.bool_]) -> Flips:
    return flips(base, cand) if base.size else Flips(0, 0, 0, 0)
