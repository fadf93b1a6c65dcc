"""The parent's side of an arm's process: start it, ask it, end it."""

import contextlib
import json
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sage_eval import errors
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError
from sage_eval.runs.child import end_group, environment, last_line

START_SECONDS = 600.0
ANSWER_SECONDS = 86400.0
"""For a whole evaluation, say; whoever knows better gives another limit."""
PATIENCE_SECONDS = 10.0


class Worker:
    """One arm's engine, in a process that runs `module`. It starts at once, in the background; `ready` waits for it."""

    def __init__(self, name: str, order: dict[str, Any], folder: Path, module: str) -> None:
        self.name = name
        self._started = time.perf_counter()
        self._dismissed = False
        self._log = folder / f"{re.sub(r'[^A-Za-z0-9.+_-]+', '-', name)}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened = self._log.open("wb")
        except OSError as error:
            raise PrerequisiteError(f"{self._log} cannot be written: {error.strerror or error}") from error
        with opened as log:
            # Its own session: a Ctrl-C on the terminal reaches this process only, which then ends the whole group.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=environment(),
            )
        self._send(order)

    def ready(self) -> tuple[dict[str, Any], float]:
        """What the engine says of itself, and the seconds since this worker was made."""
        reply = self._receive(START_SECONDS, "did not start")
        return reply, time.perf_counter() - self._started

    def ask(self, do: str, *, within: float = ANSWER_SECONDS, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; raises the error that the engine reports.

        `EngineError` where there is none `within` so many seconds; afterwards the worker is good for `close` alone.
        """
        self._send({"do": do, **command})
        return self._receive(within, f"did not answer {do!r}")

    def dismiss(self) -> None:
        """Let it end by itself, in its own time; `close` then waits for it."""
        with contextlib.suppress(SageEvalError):
            self._send({"do": "close"})
            self._dismissed = True

    def close(self) -> None:
        """End the engine and every process it started. May be called twice."""
        if self._dismissed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_SECONDS)
        end_group(self._process)
        if self._process.stdout:
            self._process.stdout.close()

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None

    def _receive(self, within: float, failure: str) -> dict[str, Any]:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], within)[0]:
            raise EngineError(
                f"arm {self.name} {failure} within {within:g} s (its log: {self._log}): "
                "repeat the command to go on; where the engine is only slow, ask it for less at once"
            )
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["type"], EngineError)
            raise kind(f"arm {self.name}: {reply['error']} (its log: {self._log})")
        return reply

    def _died(self) -> SageEvalError:
        return EngineError(f"arm {self.name} ended: {last_line(self._log)} (its log: {self._log})")
