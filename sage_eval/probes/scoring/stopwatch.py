"""When the first request went out and the last answer came back."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any


class Stopwatch:
    """Times of the first and the last moment that any function it watches was busy."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None

    def reset(self) -> None:
        """Forget what was seen."""
        self.first = self.last = None

    @property
    def seconds(self) -> float:
        """From the first to the last moment; 0 where nothing was sent."""
        return 0.0 if self.first is None or self.last is None else self.last - self.first

    def over(self, function: Callable[..., Any], settle: Callable[[], None] = lambda: None) -> Callable[..., Any]:
        """`function`, watched from each call until it has returned, and `settle` too: what a GPU still has to do."""

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            self._begin()
            try:
                answer = function(*args, **options)
                settle()
                return answer
            finally:
                self.last = time.perf_counter()

        return watched

    def over_iterator(self, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """`function`, whose answers come one by one, watched from the first asked for to the last one got."""

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Iterator[Any]:
            self._begin()
            for answer in function(*args, **options):
                self.last = time.perf_counter()
                yield answer

        return watched

    def _begin(self) -> None:
        if self.first is None:
            self.first = time.perf_counter()
