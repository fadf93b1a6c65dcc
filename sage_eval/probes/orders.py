"""An arm's process's side of a `client.Worker`: a command a line on stdin, an answer a line of JSON on stdout."""

import json
import os
import queue
import signal
import threading
from typing import Any, TextIO


def private_stdout() -> TextIO:
    """Stdout for answers alone; whatever libraries print goes to the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def say(answers: TextIO, value: dict[str, Any]) -> None:
    """Answer with one line of JSON."""
    answers.write(json.dumps(value, default=str) + "\n")
    answers.flush()


def commands() -> "queue.SimpleQueue[dict[str, Any]]":
    """Commands as they come. When the parent is gone, killed or not, this process and its engine end at once."""
    found: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        pending = b""
        while data := os.read(0, 1 << 16):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                found.put(json.loads(line))
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    return found
