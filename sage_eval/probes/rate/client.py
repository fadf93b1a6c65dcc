"""The parent's side of a server's process and of the load generator's."""

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

from sage_eval.engine import coverage
from sage_eval.engine.post_mortem import last_error
from sage_eval.engine.server import ServerEngine
from sage_eval.errors import EngineError, SageEvalError
from sage_eval.probes.client import Worker
from sage_eval.probes.crew import BystanderError
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.record import Result
from sage_eval.probes.told import told
from sage_eval.runs.child import last_line

DYING_SECONDS = 10.0
"""SGLang's server outlives its scheduler by some seconds, in which it looks for what to report."""


class GeneratorError(BystanderError):
    """The load generator's own process has ended; no server is to blame."""


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
        with contextlib.closing(ServerEngine(self.url)) as engine:
            engine.freeze_gc()

    def coverage(self) -> dict[str, float]:
        """Tokens by "phase/kernel" since the start; empty for a backend that does not count."""
        return coverage.read_counters(self._info()) or {}

    def explain(self, error: EngineError) -> SageEvalError:
        """What to raise for requests that failed by `error`: if the server has ended, why it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_SECONDS)
            return self._died()
        return EngineError(f"arm {self.name}: {error} (its log: {self._log})")

    def _info(self) -> dict[str, Any]:
        with contextlib.closing(ServerEngine(self.url)) as engine:
            return engine.info()

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

    def run(self, load: Load, url: str) -> Result:
        """Send `load` to the server at `url`.

        Raises `EngineError` where a request fails, `GeneratorError` where this process has ended.
        """
        self._output.unlink(missing_ok=True)
        try:
            self.ask("run", arguments=load.arguments(url, self._words, self._output))
        except EngineError as error:
            raise EngineError(str(error).removeprefix(f"arm {self.name}: ")) from None  # the generator is no arm
        return load.result(json.loads(self._output.read_text()))

    def _died(self) -> SageEvalError:
        return GeneratorError(
            f"SGLang's load generator ended: {last_line(self._log)} (its log: {self._log}): repeat the command to go on"
        )
