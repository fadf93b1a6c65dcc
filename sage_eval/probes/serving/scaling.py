"""How the time of a prompt grows with its length: attention is quadratic, everything else linear."""

from collections.abc import Mapping, Sequence

MIN_LENGTHS = 4
"""Three unknowns, and one length more, so that the fit is not exact by construction."""


def predict(known: Mapping[int, float], size: int) -> float | None:
    """Seconds for `size` tokens, from {tokens: seconds}; None where nothing shorter was measured.

    The two longest known sizes give t = a·n + b·n². Where noise makes one of them negative it counts as nothing.
    """
    if size in known:
        return known[size]
    shorter = sorted(n for n in known if n < size)
    if not shorter:
        return None
    last = shorter[-1]
    rate, quadratic = known[last] / last, 0.0
    if len(shorter) > 1:
        before = shorter[-2]
        quadratic = max(0.0, (rate - known[before] / before) / (last - before))
    linear = max(0.0, rate - quadratic * last)
    return max(known[last], linear * size + quadratic * size**2)


def predict_mix(
    sizes: Sequence[tuple[int, int]], prefill: Mapping[int, float], decode: Mapping[int, float]
) -> float | None:
    """Seconds for requests of (prompt, new) tokens at once, at most about; None where no prefill was measured.

    Prompts are taken to be computed one by one, and then all requests to be decoded together, as long as the longest.
    """
    if not prefill:
        return None
    shortest = min(prefill)
    prompts = sum(predict(prefill, max(prompt, shortest)) or 0.0 for prompt, _ in sizes)
    step = predict(decode, max(len(sizes), min(decode))) or 0.0 if decode else 0.0
    return prompts + step * max(new for _, new in sizes)


def quadratic_share(known: Mapping[int, float]) -> dict[int, float]:
    """Tokens → the share of their time that grows with the square of the length: attention's, without a profiler.

    t = c + a·n + b·n² with none of them negative, fitted to {tokens: seconds} with equal relative weights (Lawson and
    Hanson's NNLS). Empty with fewer than `MIN_LENGTHS` lengths.
    """
    if len(known) < MIN_LENGTHS:
        return {}
    import numpy as np
    from scipy.optimize import nnls

    sizes = np.array(sorted(known), dtype=float)
    times = np.array([known[int(n)] for n in sizes])
    scale = sizes.max()
    terms = np.stack([np.ones_like(sizes), sizes / scale, (sizes / scale) ** 2], axis=1)
    weights, _ = nnls(terms / times[:, None], np.ones_like(sizes))
    parts = terms * weights
    return {int(n): float(part[2] / part.sum()) for n, part in zip(sizes, parts, strict=True)}
