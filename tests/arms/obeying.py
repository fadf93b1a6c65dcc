"""A class for `arms.worker.Worker` that opens no engine: it answers, errs, hangs or dies as it is told to."""

import sys
import time
from typing import Any


class Obeying:
    """Its `introduction` is what it was made with."""

    def __init__(self, **order: Any) -> None:
        if order.get("refuse"):
            raise ValueError(order["refuse"])
        self.order = order

    def introduction(self) -> dict[str, Any]:
        return {"engine": self.order}

    def echo(self, **arguments: Any) -> dict[str, Any]:
        return arguments

    def coverage(self) -> dict[str, float]:
        return {"prefill/sage": 10.0}

    def hang(self) -> None:
        sys.stderr.write("still at it\n")
        time.sleep(600)

    def err(self) -> None:
        from sage_eval.errors import DataError

        raise DataError("no such thing")

    def crash(self) -> None:
        raise KeyError("layers.0")

    def die(self) -> None:
        sys.stderr.write("out of memory\n")
        sys.stderr.flush()
        import os

        os._exit(3)
