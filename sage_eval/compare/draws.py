"""Tasks that draw their items at random draw the same ones in every arm.

RULER writes its texts, and GPQA shuffles its choices, with Python's global generator: what they get depends on whatever
drew before. And GPQA may shuffle whenever its items are asked for: an answer would be marked by another order.
"""

import random
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every task that is built meanwhile draws from `seed` and its own name alone."""
    import numpy
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download

    def download(self: Any, *more: Any, **options: Any) -> None:
        own = f"{seed} {self.config.task}"
        random.seed(own)
        numpy.random.seed(zlib.crc32(own.encode()))
        original(self, *more, **options)

    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = original


def keep_items(tasks: Iterable[Any]) -> None:
    """From now on these tasks have the items that they were built with, whenever they are asked."""
    for task in tasks:
        if (items := getattr(task, "task_docs", None)) is not None:
            setattr(task, "test_docs" if task.has_test_docs() else "validation_docs", lambda items=items: items)
