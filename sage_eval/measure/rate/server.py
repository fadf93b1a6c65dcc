"""An arm's process for `rate`: it starts an SGLang server as its child, and says how that server is."""

from pathlib import Path
from typing import Any

from sage_eval.arms.engine import engine_info
from sage_eval.engine import coverage
from sage_eval.engine.launch import ServedEngine
from sage_eval.engine.options import ArmOptions

LOG = Path("/proc/self/fd/2")
"""This process's log, which the server writes to as well."""


class RateServer:
    """Serves at `address`. Whatever fails because the server has ended says why it has."""

    def __init__(self, model: str, arguments: dict[str, Any]) -> None:
        self._engine = ServedEngine(ArmOptions.from_arguments(model, **arguments), LOG.resolve())

    def introduction(self) -> dict[str, Any]:
        """Fields of a `store.record.ArmEntry`."""
        return {"engine": engine_info(self._engine.info()), "command": self._engine.command}

    def address(self) -> str:
        """Where the server listens."""
        return self._engine.url

    def freeze_gc(self) -> None:
        """Have its processes leave what they hold now out of garbage collection."""
        self._engine.freeze_gc()

    def coverage(self) -> dict[str, float]:
        """Tokens by "phase/kernel" since the start; empty for a backend that does not count."""
        return coverage.read_counters(self._engine.info()) or {}

    def explain(self, error: str) -> str:
        """Why requests failed by `error`: if the server has ended or is about to, of what."""
        return self._engine.explain(error)

    def close(self) -> None:
        """End the server; its own processes end with it."""
        self._engine.close()
