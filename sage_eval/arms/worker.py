"""The one host of worker processes: an arm's engine, a server or a load generator in a process of its own.

A worker is an object of a class that is named by `module:Class`. Its process makes it with the order it is given, says
it is ready, and calls its methods as it is asked; what a method returns is the answer, a JSON value. An error of this
project keeps its class on the way back, and any other one comes with its traceback in the log. A fresh process for each
arm, because SGLang keeps global state (the chosen backend, CUDA memory, the plugin registry). A process ends with its
parent, however that ends, and leaves no process of its own behind.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from sage_eval import errors
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError

START_SECONDS = 600.0
ANSWER_SECONDS = 86400.0
"""For a whole evaluation; who knows better gives another limit."""
PATIENCE_SECONDS = 10.0
GRACE_SECONDS = 5.0
_WATCH_SECONDS = 0.25
_SMALL_DISK = 64 * 1024
"""With less than this a process cannot even leave its error."""


class Worker:
    """Starts the process at once, in the background; `ready` waits for it. A context manager that closes it.

    `target` is the class, `order` its keyword arguments; the log goes to `folder/NAME.log` (or `log`), and
    `environment` is added to this process's.
    """

    def __init__(
        self,
        name: str,
        target: str,
        order: Mapping[str, Any],
        folder: Path,
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log or log_of(name, folder)
        self._started = time.perf_counter()
        self._dismissed = False
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_bytes(b"")
            opened = self.log.open("ab")  # to its end, as its own server does (`engine.launch`)
        except OSError as error:
            raise PrerequisiteError(f"{self.log} cannot be written: {error.strerror or error}") from error
        with opened as stderr:
            # Its own session: a Ctrl-C on the terminal reaches this process only, which then ends the whole group.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sage_eval.arms.host", target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env=_environment() | dict(environment or {}),
            )
        self._send(dict(order))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self, watch: Callable[[str], None] | None = None) -> tuple[Any, float]:
        """What the object says of itself (its `introduction`), and the seconds since this worker was made."""
        reply = self._receive(START_SECONDS, "did not start", watch)
        return reply, time.perf_counter() - self._started

    def ask(
        self, do: str, *, within: float = ANSWER_SECONDS, watch: Callable[[str], None] | None = None, **arguments: Any
    ) -> Any:
        """The answer of the method `do`; raises the error that it raised.

        `EngineError` where there is none `within` so many seconds; afterwards the worker is good for `close` alone.
        `watch` gets the log's last line a few times a second meanwhile.
        """
        self._send({"do": do, "arguments": arguments})
        return self._receive(within, f"did not answer {do!r}", watch)

    def dismiss(self) -> None:
        """Let it end by itself, in its own time; `close` then waits for it."""
        with contextlib.suppress(SageEvalError):
            self._send({"do": "close"})
            self._dismissed = True

    def close(self) -> None:
        """End every process that belongs to it. May be called twice."""
        if self._dismissed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_SECONDS)
        end_group(self._process)
        if self._process.stdout:
            self._process.stdout.close()

    def died(self) -> SageEvalError:
        """Why the process has ended, as far as its log and its exit code tell."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_SECONDS)
        code, where = self._process.poll(), f"its log: {self.log}"
        if shutil.disk_usage(self.log.parent).free < _SMALL_DISK:
            return PrerequisiteError(
                f"the disk with {self.log.parent} is full: free some space, then repeat the command to go on"
            )
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "out of memory? a smaller --limit or mem_fraction_static may help; " if name == "SIGKILL" else ""
            return EngineError(f"arm {self.name} was ended by {name}; {hint}{where}; repeat the command to go on")
        return EngineError(f"arm {self.name} ended: {last_line(self.log)} ({where})")

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(value, default=str).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self.died() from None

    def _receive(self, within: float, failure: str, watch: Callable[[str], None] | None) -> Any:
        assert self._process.stdout
        end = time.monotonic() + within
        while not select.select([self._process.stdout], [], [], min(_WATCH_SECONDS, within) if watch else within)[0]:
            if watch:
                watch(last_line(self.log))
            if time.monotonic() >= end:
                raise EngineError(
                    f"arm {self.name} {failure} within {within:g} s (its log: {self.log}): repeat the command to go "
                    "on; where the engine is only slow, ask it for less at once"
                )
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self.died()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["type"], EngineError)
            raise kind(f"arm {self.name}: {reply['error']} (its log: {self.log})")
        return reply["answer"]


def log_of(name: str, folder: Path) -> Path:
    """The log of the worker `name`."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.+_-]+', '-', name)}.log"


def last_line(log: Path) -> str:
    """The last non-empty line of a growing log, carriage returns counted as line ends, at most 120 characters."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        text = file.read().decode("utf-8", "replace").replace("\r", "\n")
    return next((line.strip()[:120] for line in reversed(text.split("\n")) if line.strip()), "")


def _environment() -> dict[str, str]:
    """That of a child that runs this project's code, wherever it was imported from."""
    root = str(Path(__file__).parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # A log is no terminal: one progress line a second is enough.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "1"}


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of the process group; the leader may be gone while its scheduler lives on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and _alive(process):
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _alive(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()  # reaps the leader, which would otherwise count as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
