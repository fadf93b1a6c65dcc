"""How many requests to send before pausing to keep what is finished.

What was computed is read from the engine's counters, which are exact only while it is idle. So a journalled batch is
sent in slices, and between two of them the engine runs dry for a moment. The slices are sized by the time they take: a
kill loses one slice at most, and the pauses cost little of it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from sage_eval.engine.requests import Payload

FIRST_TOKENS = 32_768
"""The first slice, before anything is known: two of SGLang's prefill batches, under a minute even without a GPU."""
SCORE_SECONDS = 30.0
"""A pause while scoring costs about one round trip to the engine."""
GENERATE_SECONDS = 120.0
"""A pause while generating waits for the longest answer, in an ever emptier batch: fewer of them."""
GROWTH = 16
"""A slice is at most so many times the one before it: a bad guess stays a small one."""


class Slices:
    """Where to cut `payloads`. `next` says where the slice that begins at a place ends, `took` how long it took."""

    def __init__(self, payloads: Sequence[Payload]) -> None:
        sizes = [(len(p["input_ids"]), p["sampling_params"].get("max_new_tokens") or 0) for p in payloads]
        self._upto = [0, *accumulate(length + new for length, new in sizes)]
        self._seconds = GENERATE_SECONDS if any(new for _, new in sizes) else SCORE_SECONDS
        self._tokens: float = FIRST_TOKENS

    def next(self, start: int) -> int:
        """The end of the slice from `start` on: one payload at least, and no small rest left behind."""
        stop = max(start + 1, bisect_right(self._upto, self._upto[start] + self._tokens) - 1)
        few = self._upto[-1] - self._upto[stop] < self._tokens / 2
        return len(self._upto) - 1 if few else stop

    def took(self, start: int, stop: int, seconds: float) -> None:
        """Size the next slice by the time that this one took."""
        tokens = self._upto[stop] - self._upto[start]
        self._tokens = min(GROWTH * tokens, tokens * self._seconds / max(seconds, 1e-3))
