"""Greedy texts of two arms side by side."""

from collections.abc import Callable, Sequence

from sage_eval.probes.logits.record import GeneratedText
from sage_eval.statistics.paired import mean


def compare(
    base: Sequence[Sequence[int]], cand: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> GeneratedText:
    """Token ids of the same prompts' continuations in both arms; `decode` makes text of them."""
    from rapidfuzz.distance import Levenshtein

    pairs = list(zip(base, cand, strict=True))
    first = [first_difference(a, b) for a, b in pairs]
    alike = [Levenshtein.normalized_similarity(decode(a), decode(b)) for a, b in pairs]
    return GeneratedText(
        prompts=len(pairs),
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
