"""Noticing that SGLang's scheduler has died, and of what.

A scheduler that fails writes the reason to its log and sends SIGQUIT to its parent, whose default is to die of it.
"""

import re
import signal
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

from sage_eval import errors
from sage_eval.engine import host
from sage_eval.errors import EngineError

_POLL_SECONDS = 0.5
_DYING_SECONDS = 5
_EXCEPTION = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupt))(?:: (.*))?$")


class Watch:
    """Over the processes of an engine, `children`; its scheduler writes to `log`. Until `end`, SIGQUIT is harmless."""

    def __init__(self, log: Path) -> None:
        self.children: set[Any] = set()
        self._log = log
        self._suspect = threading.Event()
        global _default_sigquit  # noqa: PLW0603 - a process has one handler, whoever asks for it
        if not _suspects and threading.current_thread() is threading.main_thread():
            _default_sigquit = signal.signal(signal.SIGQUIT, _suspect_all)
        _suspects.add(self._suspect)

    def end(self) -> None:
        """SIGQUIT is as it was, once no other engine is watched either. May be called twice."""
        _suspects.discard(self._suspect)
        if not _suspects and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGQUIT, _default_sigquit)

    def wait(self, future: "futures.Future[Any]", failure: str) -> Any:
        """The result of `future`; `EngineError` where a child dies meanwhile, or, as `failure`, where it has none."""
        while not futures.wait([future], timeout=_POLL_SECONDS).done:
            self.raise_if_dead()
        try:
            return future.result()
        except (EngineError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise EngineError(f"{failure}: {self._last_error() or error}") from error

    def raise_if_dead(self) -> None:
        """Raise the post-mortem if a child has ended. One that has sent SIGQUIT is about to: give it the time."""
        patience = _DYING_SECONDS if self.children and self._suspect.is_set() else 0
        deadline = time.monotonic() + patience
        while all(map(host.alive, self.children)):
            if time.monotonic() >= deadline:
                self._suspect.clear()  # it was another engine's
                return
            time.sleep(0.1)
        reason = self._last_error() or "no error in its log; the kernel may have killed it for memory (see dmesg)"
        error = EngineError(f"SGLang's scheduler died: {reason}")
        error.add_note("\n".join(self._log.read_text(errors="replace").splitlines()[-20:]))
        raise error

    def _last_error(self) -> str | None:
        return last_error(self._log.read_text(errors="replace"))


def last_error(log: str) -> str | None:
    """The last exception in a scheduler's log, as one line; of this project's own errors, only what they say."""
    for line in reversed(log.splitlines()):
        if match := _EXCEPTION.match(line.strip()):
            name, text = match.groups()
            return text if text and hasattr(errors, name) else line.strip()
    return None


_suspects: set[threading.Event] = set()
"""One of each engine that is watched."""
_default_sigquit: Any = signal.SIG_DFL


def _suspect_all(*_: object) -> None:
    for suspect in list(_suspects):
        suspect.set()
