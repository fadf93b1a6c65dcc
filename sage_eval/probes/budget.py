"""The seconds that a measurement may take."""

import time
from collections.abc import Callable


class Budget:
    """`total` seconds from now on by `clock`, or any number of them."""

    def __init__(self, total: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + total if total else float("inf")

    def now(self) -> float:
        """Seconds since some moment."""
        return self._clock()

    def left(self) -> float:
        """Seconds; less than none where more than the total were taken."""
        return self._end - self._clock()

    def fits(self, seconds: float) -> bool:
        """Whether something that takes so long would end in time."""
        return seconds < self.left()
