"""KL divergence of two arms' next-token distributions, from full log-probabilities or from top-k lists.

Top-k lists leave most ids unknown. Both arms are therefore read on one partition of the vocabulary: each id found in
both lists, and everything else as one cell. Merging cells can only lower KL (data processing inequality), so the value
is a lower bound of the true one; with full log-probabilities every id has its own cell and the value is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .estimate import Floats

Ids = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]

CHUNK_CELLS = 1 << 20
"""Array cells worked on at once: keeps the temporaries below 100 MB however long the run."""
DUST = 1e-6
"""Mass below which "the rest" is rounding error of float32 log-probabilities and joins the smallest common cell."""


@dataclass(frozen=True)
class Divergence:
    """Per position, [N]: KL(baseline ‖ candidate) in nats, the baseline's mass on cells of one id, and same argmax."""

    kl: Floats
    mass: Floats
    same_top: npt.NDArray[np.bool_]
    exact: bool


def divergence(
    base_logprobs: FloatArray, cand_logprobs: FloatArray, base_ids: Ids | None = None, cand_ids: Ids | None = None
) -> Divergence:
    """KL(baseline ‖ candidate) per position in nats.

    Log-probabilities [N, K] in nats, ids [N, K] of the same shape and distinct in a row; an id of −1 pads a shorter
    list. Without ids the columns are the whole vocabulary, [N, V], and the value is exact. Works in chunks, so that
    memory-mapped arrays stay on disk. ValueError on mismatched shapes, NaN or positive log-probabilities.
    """
    _check(base_logprobs, cand_logprobs, base_ids, cand_ids)
    n, width = base_logprobs.shape
    result = Divergence(np.empty(n), np.empty(n), np.empty(n, np.bool_), base_ids is None)
    step = max(1, CHUNK_CELLS // width)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        base, cand = (np.asarray(x[rows], dtype=np.float64) for x in (base_logprobs, cand_logprobs))
        if base_ids is None or cand_ids is None:
            _require_finite(base, cand, None, None)
            p, q = _normalised(base), _normalised(cand)
            result.mass[rows] = 1.0
            result.same_top[rows] = base.argmax(axis=1) == cand.argmax(axis=1)
        else:
            ids = np.asarray(base_ids[rows]), np.asarray(cand_ids[rows])
            _require_finite(base, cand, *ids)
            p, q = _common_partition(base, cand, *ids)
            result.mass[rows] = np.minimum(np.exp(p[:, :-1]).sum(axis=1), 1.0)
            top = [np.where(i < 0, -np.inf, x).argmax(axis=1) for i, x in zip(ids, (base, cand), strict=True)]
            line = np.arange(base.shape[0])
            result.same_top[rows] = ids[0][line, top[0]] == ids[1][line, top[1]]
        result.kl[rows] = _kl(p, q)
    return result


def _kl(p: Floats, q: Floats) -> Floats:
    """Σ p·(log p − log q) over cells, [N, M] log-probabilities with −inf where a cell is empty in the baseline."""
    mass = np.exp(p)
    with np.errstate(invalid="ignore"):
        terms = np.where(mass > 0, mass * (p - q), 0.0)
    # exact arithmetic gives KL ≥ 0; rounding may give −1e−16
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0), dtype=np.float64)


def _normalised(logprobs: Floats) -> Floats:
    shifted = logprobs - logprobs.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def _common_partition(base: Floats, cand: Floats, base_ids: Ids, cand_ids: Ids) -> tuple[Floats, Floats]:
    """Log-probabilities of the cells "id in both lists" (−inf elsewhere) and, last, "the rest"; each [N, K + 1]."""
    both = np.concatenate([base_ids, cand_ids], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    ordered = np.take_along_axis(both, order, axis=1)
    row, at = np.nonzero((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    width = base.shape[1]
    first, second = order[row, at], order[row, at + 1]
    if (first >= width).any() or (second < width).any():
        raise ValueError("ids: a list names the same id twice")
    p, q = np.full((base.shape[0], width + 1), -np.inf), np.full((base.shape[0], width + 1), -np.inf)
    p[row, first], q[row, first] = base[row, first], cand[row, second - width]
    rest_p, rest_q = 1 - np.exp(p).sum(axis=1), 1 - np.exp(q).sum(axis=1)
    dust = np.minimum(rest_p, rest_q) < DUST
    with np.errstate(divide="ignore"):
        p[:, -1], q[:, -1] = np.log(np.maximum(rest_p, 0)), np.log(np.maximum(rest_q, 0))
    if dust.any():
        _merge_rest(p, q, np.flatnonzero(dust))
    return p, q


def _merge_rest(p: Floats, q: Floats, rows: npt.NDArray[np.int64]) -> None:
    """Join the rest to the baseline's smallest common cell, in place: still one partition, still a lower bound."""
    common = np.where(np.isfinite(p[rows, :-1]), p[rows, :-1], np.inf)
    smallest = common.argmin(axis=1)
    for cells in (p, q):
        cells[rows, smallest] = np.logaddexp(cells[rows, smallest], cells[rows, -1])
        cells[rows, -1] = -np.inf


def _check(base: FloatArray, cand: FloatArray, base_ids: Ids | None, cand_ids: Ids | None) -> None:
    if (base_ids is None) != (cand_ids is None):
        raise ValueError("ids: give them for both arms (top-k lists) or for neither (full vocabulary)")
    if base.ndim != 2 or 0 in base.shape or (base.shape != cand.shape if base_ids is None else len(base) != len(cand)):
        raise ValueError(f"log-probabilities: want two non-empty [N, K] arrays, got {base.shape} and {cand.shape}")
    if base.shape != cand.shape:
        raise ValueError(f"top-k lists: pad both arms to one K with id −1, got {base.shape[1]} and {cand.shape[1]}")
    for logprobs, ids in ((base, base_ids), (cand, cand_ids)):
        if ids is not None and ids.shape != logprobs.shape:
            raise ValueError(f"ids: want the shape of the log-probabilities {logprobs.shape}, got {ids.shape}")


def _require_finite(base: Floats, cand: Floats, base_ids: Ids | None, cand_ids: Ids | None) -> None:
    for logprobs, ids in ((base, base_ids), (cand, cand_ids)):
        # full vocabularies may hold −inf (masked ids); a listed id may not
        bad = np.isnan(logprobs) | (logprobs > 1e-3)
        bad |= np.isneginf(logprobs) if ids is not None else False
        if (bad if ids is None else bad & (ids >= 0)).any():
            raise ValueError("log-probabilities: NaN, infinite or positive values")
