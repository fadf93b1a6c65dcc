"""The parent's side of a server's process and of the load generator's."""

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sage_eval.engine import coverage
from sage_eval.engine.post_mortem import last_error
from sage_eval.engine.server import ServerEngine
from sage_eval.errors import EngineError, SageEvalError
from sage_eval.probes.client import Worker
from sage_eval.probes.crew import BystanderError
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.record import Result, label
from sage_eval.probes.told import told
from sage_eval.runs.child import last_line

DYING_SECONDS = 10.0
"""SGLang's server outlives its scheduler by some seconds, in which it looks for what to report."""
ALLOWANCE = 600.0
"""Seconds that any run may take beyond what is expected of it: kernels are compiled in it."""

T = TypeVar("T")


class GeneratorError(BystanderError):
    """The load generator has failed by itself; no server is to blame."""


class UnansweredError(EngineError):
    """A server has not answered in time. The generator still waits for it, so it is good for `close` alone."""


class Server(Worker):
    """One arm's SGLang server. It starts at once and in the background; `ready` waits for it, `close` ends it."""

    url = ""

    def __init__(self, name: str, order: dict[str, Any], logs: Path) -> None:
        super().__init__(name, order, logs, "sage_eval.probes.rate.server")

    def ready(self) -> tuple[dict[str, Any], float]:
        """Its `command` and `engine` settings, and the seconds since this object was made."""
        reply, seconds = super().ready()
        self.url = reply.pop("url")
        return reply | {"engine": told(self._info())}, seconds

    def freeze_gc(self) -> None:
        """Have its processes leave what they hold now out of garbage collection."""
        self._control(ServerEngine.freeze_gc)

    def coverage(self) -> dict[str, float]:
        """Tokens by "phase/kernel" since the start; empty for a backend that does not count."""
        return coverage.read_counters(self._info()) or {}

    def explain(self, error: SageEvalError) -> SageEvalError:
        """What to raise for requests that failed by `error`: if the server has ended, why it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_SECONDS)
            return self._died()
        return EngineError(f"arm {self.name}: {error} (its log: {self._log})")

    def _info(self) -> dict[str, Any]:
        return self._control(ServerEngine.info)

    def _control(self, request: Callable[[ServerEngine], T]) -> T:
        try:
            with contextlib.closing(ServerEngine(self.url)) as engine:
                return request(engine)
        except SageEvalError as error:
            raise self.explain(error) from None

    def _died(self) -> SageEvalError:
        # SGLang's own last words are that a child has failed; which error it was stands further up.
        if reason := last_error(self._log.read_text(errors="replace")):
            return EngineError(f"arm {self.name}: its server ended: {reason} (its log: {self._log})")
        return super()._died()


class Generator(Worker):
    """SGLang's load generator. `words` is the folder of a tokenizer; its files go to `scratch`."""

    def __init__(self, logs: Path, words: Path, scratch: Path) -> None:
        super().__init__("bench_serving", {}, logs, "sage_eval.probes.rate.generator")
        self._words, self._output = words, scratch / "bench_serving.jsonl"

    def ready(self) -> tuple[dict[str, Any], float]:
        """Wait until it is up, once; `GeneratorError` where it does not come up."""
        try:
            return super().ready()
        except EngineError as error:
            raise self._failed(f"did not start: {error}") from None

    def run(self, load: Load, url: str, within: float = ALLOWANCE) -> Result:
        """Send `load` to the server at `url`, which has `within` seconds to answer it all.

        Raises `EngineError` where a request fails, and `UnansweredError` where there is no answer in time;
        `GeneratorError` where this process has ended, or fails by itself.
        """
        self._output.unlink(missing_ok=True)
        try:
            reply = self.ask("run", within=within, arguments=load.arguments(url, self._words, self._output))
        except EngineError:
            raise UnansweredError(
                f"{load.requests} requests, {label(load.rate)}, were not answered within {within:,.0f} s: "
                "where the server is only slow, send it less"
            ) from None
        if "gave_up" in reply:
            if reply["own"]:
                raise self._failed(f"gave up: {reply['gave_up']}")
            raise EngineError(f"SGLang's load generator gave up: {reply['gave_up']} (its log: {self._log})")
        return load.result(json.loads(self._output.read_text()))

    def _died(self) -> SageEvalError:
        return self._failed(f"ended: {last_line(self._log)}")

    def _failed(self, how: str) -> GeneratorError:
        return GeneratorError(f"SGLang's load generator {how} (its log: {self._log}): repeat the command to go on")
