"""Distances between two arms' rows of one prompt, by the code that also compares top-k lists.

Both arms are read on one partition of the vocabulary: each id that has at least e⁻¹⁶ in both, and everything else as
one cell, whose mass is known (`tail`, and what one arm's codes say of ids that only the other lost). Merging cells can
only lower KL, here by no more than the cell holds: at most V · e⁻¹⁶, 1.4 % of the mass for 128k ids, and usually far
less; the record states it. Two arms with the same logits have the same rows, and a distance of exactly zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sage_eval.measure.logits.plan import Prompt, Work
from sage_eval.measure.logits.record import GeneratedText, LogitDistances, Part, Place, Served, TextClass
from sage_eval.measure.logits.tap import BEYOND, STEP, Rows
from sage_eval.statistics.divergence import CHUNK_CELLS, Divergence, divergence
from sage_eval.statistics.estimate import Floats
from sage_eval.statistics.fidelity import Fidelity, fidelity
from sage_eval.statistics.paired import mean
from sage_eval.store.fidelity import PositionBin, TaskFidelity, histogram
from sage_eval.store.record import Role

_NOTHING = 1e-30
"""Stands for a mass of zero in the merged cell, so that two empty ones are equal."""


@dataclass(frozen=True)
class Distances:
    """Per position, [N]: KL(baseline ‖ arm), the true token's log-probabilities (fp32) and the largest |Δ|, in nats.

    `tops` are the most probable ids [2, N] by the full-precision logits, `merged` is the baseline's mass in the merged
    cell. `largest` is over the whole vocabulary, with `tap.NATS` for whatever is beyond.
    """

    kl: Floats
    base_true: Floats
    cand_true: Floats
    tops: npt.NDArray[np.int64]
    largest: Floats
    merged: Floats

    def at(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """Those of the `chosen` positions, [N]."""
        return type(self)(*(getattr(self, name)[..., chosen] for name in self.__dataclass_fields__))

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
    names = Distances.__dataclass_fields__
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


WORST = 20
_BEFORE = 60
"""Characters of context shown before one of the worst positions."""

Decode = Callable[[Sequence[int]], str]


def served(work: Work) -> Served:
    """What is served, by length class."""
    return Served(vocabulary=work.vocabulary, resolution=STEP, classes=classes(work.prompts))


def classes(prompts: Sequence[Prompt]) -> list[TextClass]:
    """What is served, by length class."""
    found = []
    for name in dict.fromkeys(prompt.kind for prompt in prompts):
        mine = [prompt for prompt in prompts if prompt.kind == name]
        lengths = [len(prompt.tokens) for prompt in mine]
        found.append(
            TextClass(
                name=name, low=min(lengths), high=max(lengths), prompts=len(mine), tokens=sum(lengths),
                documents=len({prompt.document for prompt in mine}),
                positions=sum(len(prompt.positions) for prompt in mine),
            )
        )  # fmt: skip
    return found


def summarise(
    prompts: Sequence[Prompt], parts: Sequence[Distances], decode: Decode, *, texts: str, arm: str, role: Role
) -> LogitDistances:
    """Statistics of one arm: `parts` are its distances by prompt. Errors are clustered by document."""
    whole = join(list(parts))
    sizes = [len(part.kl) for part in parts]
    index = np.repeat(np.arange(len(prompts)), sizes)
    documents = np.array([prompt.document for prompt in prompts])[index]
    context = np.concatenate([prompt.context for prompt in prompts])
    kinds = np.array([prompt.kind for prompt in prompts])[index]
    lengths = np.array([len(prompt.tokens) for prompt in prompts])[index]
    powers = np.frexp(context)[1] - 1  # floor(log2), exactly

    def all_statistics(chosen: npt.NDArray[np.bool_]) -> Fidelity:
        part = whole.at(chosen)
        return fidelity(part.divergence, part.base_true, part.cand_true, documents[chosen])

    def part(name: str, low: int, high: int, chosen: npt.NDArray[np.bool_]) -> Part:
        return Part.of(name, low, high, all_statistics(chosen), float(whole.largest[chosen].max()))

    by_position = [
        part(f"{2**power:,}", 2**power, 2 ** (power + 1), powers == power) for power in np.unique(powers).tolist()
    ]
    statistics = TaskFidelity(
        task=texts,
        arm=arm,
        role=role,
        k=0,  # no top-k list: every id
        statistics=all_statistics(np.ones(len(whole.kl), np.bool_)),
        kld_histogram=histogram(whole.kl),
        by_position=[PositionBin(low=x.low, high=x.high, n=x.positions, difference=x.nll) for x in by_position],
    )
    order = np.argsort(-whole.kl, kind="stable")[:WORST]
    first = np.concatenate([[0], np.cumsum(sizes)])
    return LogitDistances(
        fidelity=statistics,
        by_length=[
            part(kind, int(lengths[kinds == kind].min()), int(lengths[kinds == kind].max()) + 1, kinds == kind)
            for kind in dict.fromkeys(kinds.tolist())
        ],
        by_position=by_position,
        largest=float(whole.largest.max()),
        largest_true=float(np.abs(whole.cand_true - whole.base_true).max()),
        merged=(float(whole.merged.mean()), float(whole.merged.max())),
        worst=[_place(prompts, whole, at, int(index[at]), at - int(first[index[at]]), decode) for at in order.tolist()],
    )


def _place(prompts: Sequence[Prompt], whole: Distances, at: int, index: int, nth: int, decode: Decode) -> Place:
    prompt = prompts[index]
    place = prompt.positions[nth]
    return Place(
        prompt=index,
        document=prompt.document,
        context_tokens=place + 1,
        kld=float(whole.kl[at]),
        before=decode(prompt.tokens[max(0, place - 31) : place + 1])[-_BEFORE:],
        token=decode([prompt.tokens[place + 1]]),
        token_probability=(float(np.exp(whole.base_true[at])), float(np.exp(whole.cand_true[at]))),
        most_probable=(decode([int(whole.tops[0, at])]), decode([int(whole.tops[1, at])])),
    )


def compare_texts(base: Sequence[Sequence[int]], cand: Sequence[Sequence[int]], decode: Decode) -> GeneratedText:
    """Token ids of the same prompts' greedy continuations in both arms."""
    from rapidfuzz.distance import Levenshtein

    first = [first_difference(a, b) for a, b in zip(base, cand, strict=True)]
    alike = [Levenshtein.normalized_similarity(decode(a), decode(b)) for a, b in zip(base, cand, strict=True)]
    return GeneratedText(
        prompts=len(base),
        tokens=max(map(len, base)),
        exact=mean([float(place is None) for place in first]),
        similarity=mean(alike),
        first_difference=first,
    )


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first place, from 0, where the two differ or one of them has ended; None where they are equal."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return None if len(a) == len(b) else min(len(a), len(b))
