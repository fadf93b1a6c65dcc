"""Distances between two arms' rows of one prompt, by the code that also compares top-k lists.

Both arms are read on one partition of the vocabulary: each id that has at least e⁻¹⁶ in both, and everything else as
one cell, whose mass is known (`tail`, and what one arm's codes say of ids that only the other lost). Merging cells can
only lower KL, here by no more than the cell holds: at most V · e⁻¹⁶, 1.4 % of the mass for 128k ids, and usually far
less; the record states it. Two arms with the same logits have the same rows, and a distance of exactly zero.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sage_eval.probes.logits.chunks import BEYOND, STEP, Rows
from sage_eval.statistics.divergence import CHUNK_CELLS, Divergence, divergence
from sage_eval.statistics.estimate import Floats

_NOTHING = 1e-30
"""Stands for a mass of zero in the merged cell, so that two empty ones are equal."""


@dataclass(frozen=True)
class Distances:
    """Per position, [N]: KL(baseline ‖ arm), the true token's log-probabilities (fp32) and the largest |Δ|, in nats.

    `tops` are the most probable ids [2, N] by the full-precision logits, `merged` is the baseline's mass in the merged
    cell. `largest` is over the whole vocabulary, with `chunks.NATS` for whatever is beyond.
    """

    kl: Floats
    base_true: Floats
    cand_true: Floats
    tops: npt.NDArray[np.int64]
    largest: Floats
    merged: Floats

    @property
    def divergence(self) -> Divergence:
        """As `statistics.fidelity` takes it."""
        return Divergence(self.kl, np.ones_like(self.kl), self.tops[0] == self.tops[1], exact=True)


def distances(base: Rows, cand: Rows) -> Distances:
    """`base` and `cand`: rows of the same places. `ValueError` where they are not, or hold NaN."""
    if not np.array_equal(base["place"], cand["place"]):
        raise ValueError("the arms' rows are of different positions")
    if not all(np.isfinite(rows[name]).all() for rows in (base, cand) for name in ("true", "tail")):
        raise ValueError("NaN or infinite log-probabilities")
    n, vocabulary = base["codes"].shape
    kl, largest, merged = np.empty(n), np.empty(n), np.empty(n)
    step = max(1, CHUNK_CELLS // vocabulary)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        codes = base["codes"][rows], cand["codes"][rows]
        lost = (codes[0] == BEYOND) | (codes[1] == BEYOND)
        p, q = (_cells(code, lost, arm["tail"][rows]) for code, arm in zip(codes, (base, cand), strict=True))
        kl[rows] = divergence(p, q).kl
        a, b = (np.minimum(code, BEYOND - 1).astype(np.int32) for code in codes)
        largest[rows] = np.abs(a - b).max(axis=1) * STEP
        merged[rows] = np.exp(p[:, -1])
    tops = np.stack([base["top"], cand["top"]]).astype(np.int64)
    base_true, cand_true = (np.asarray(arm["true"], dtype=np.float64) for arm in (base, cand))
    return Distances(kl, base_true, cand_true, tops, largest, merged)


def join(parts: list[Distances]) -> Distances:
    """The positions of several prompts as one."""
    names = ("kl", "base_true", "cand_true", "tops", "largest", "merged")
    return Distances(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


def _cells(codes: npt.NDArray[np.uint16], lost: npt.NDArray[np.bool_], tail: npt.NDArray[np.float32]) -> Floats:
    """Log-probabilities [rows, V + 1]: −inf for lost ids, whose mass is the last cell."""
    cells = np.empty((len(codes), codes.shape[1] + 1))
    np.multiply(codes, -STEP, out=cells[:, :-1])
    only_there = lost & (codes < BEYOND)
    rest = tail.astype(np.float64)
    if only_there.any():
        rest += np.where(only_there, np.exp(cells[:, :-1]), 0.0).sum(axis=1)
    cells[:, :-1][lost] = -np.inf
    cells[:, -1] = np.log(np.maximum(rest, _NOTHING))
    return cells
