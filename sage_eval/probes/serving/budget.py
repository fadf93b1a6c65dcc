"""How long a prompt will take, from shorter ones: attention is quadratic, everything else linear."""

from collections.abc import Mapping


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
