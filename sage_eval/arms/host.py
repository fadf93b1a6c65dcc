"""The worker's side of `worker.Worker`: `python -m sage_eval.arms.host MODULE:CLASS`, one JSON line per message.

The first line has the object's keyword arguments. What its `introduction` returns, if it has one, is the first answer;
its `close`, if it has one, is called in any case.
"""

import contextlib
import json
import os
import pkgutil
import queue
import signal
import sys
import threading
import traceback
from typing import Any, TextIO

from sage_eval.errors import SageEvalError


def main(target: str) -> None:
    """Make the object, answer until it is told to close or its parent is gone."""
    replies, orders = os.fdopen(os.dup(1), "w"), _orders()
    os.dup2(2, 1)  # stdout is for replies alone: whatever libraries print goes to the log
    worker: Any = None
    try:
        worker = pkgutil.resolve_name(target)(**orders.get())
        introduction = getattr(worker, "introduction", None)
        _say(replies, {"answer": introduction() if introduction else None})
        while (command := orders.get())["do"] != "close":
            try:
                _say(replies, {"answer": getattr(worker, command["do"])(**command["arguments"])})
            except Exception as error:
                _say(replies, _failure(error))
    except Exception as error:
        _say(replies, _failure(error))
    finally:
        if close := getattr(worker, "close", None):
            close()


def _failure(error: Exception) -> dict[str, str]:
    """An error of this project by its class, any other one (libraries raise what they like) as the engine's."""
    if isinstance(error, SageEvalError):
        return {"error": " ".join(str(error).split()), "type": type(error).__name__}
    traceback.print_exc()
    text = " ".join((str(error).strip() or "no message").split())[:300]
    return {"error": f"{type(error).__name__}: {text}", "type": "EngineError"}


def _say(replies: TextIO, value: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, and so will this process be
        replies.write(json.dumps(value, default=str) + "\n")
        replies.flush()


def _orders() -> "queue.SimpleQueue[dict[str, Any]]":
    """Messages as they come. When the parent is gone, killed or not, this process and its engine end at once."""
    found: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        pending = b""
        # Not sys.stdin: its lock, held by a daemon thread, would abort the interpreter at exit.
        while data := os.read(0, 1 << 16):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                found.put(json.loads(line))
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    return found


if __name__ == "__main__":
    main(sys.argv[1])
