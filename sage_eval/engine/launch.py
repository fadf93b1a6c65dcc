"""An SGLang server of this process's own: started, waited for, asked, explained where it ends, and stopped.

It is a child that calls SGLang's `launch_server`. It ends when its parent does, however that ends: the parent holds one
end of a pipe, and the child's watch sees it close. SGLang's own processes end with the server.
"""

import atexit
import contextlib
import multiprocessing
import os
import re
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

import psutil

from sage_eval.engine import host
from sage_eval.engine.arm import Arm
from sage_eval.engine.checks import HOST, check_before_start, reserve
from sage_eval.engine.client import Client
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.post_mortem import last_error
from sage_eval.engine.requests import Payload, Reply
from sage_eval.engine.server import ServerEngine
from sage_eval.engine.transport import MAX_IN_FLIGHT
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError

START_SECONDS = 1800.0
"""For a model of any size; a server that fails says so at once."""
DYING_SECONDS = 10.0
"""SGLang's server outlives its scheduler by some seconds, in which it looks for what to report."""
_RETRIES = 2
"""Of a lost connection. Whoever starts a server here does not wait until it comes back."""
_SILENCE_SECONDS = 86_400.0
"""A request may wait for all others. A server that hangs is ended by SGLang's own watchdog."""

T = TypeVar("T")


class ServedEngine(ServerEngine):
    """A `ServerEngine` at a server of its own, which serves `options` at `url`, and ends when this is closed.

    Ready when it is made; `command` starts the same server by hand, and errors say of what the server ended. What it
    says is added to `log`, by default a file that goes when it is closed. `port` and `host` among the engine's
    arguments are kept to; by default it is a free port of 127.0.0.1. Raises what `check_before_start` does,
    `PrerequisiteError` for a port that is taken, and `EngineError`, with the server's last words, where it ends or is
    not ready `within` so many seconds.
    """

    def __init__(self, options: ArmOptions, log: Path | None = None, within: float = START_SECONDS) -> None:
        host.refuse_in_child()
        name = str(options.engine.get("host", HOST))
        self._reserved = reserve(int(options.engine.get("port", 0)), name)
        port = self._reserved.getsockname()[1]
        self.url = f"http://{HOST if name == '0.0.0.0' else name}:{port}"
        super().__init__(self.url, connections=MAX_IN_FLIGHT, silence=_SILENCE_SECONDS, retries=_RETRIES)
        self._own = log is None
        if log is None:
            with tempfile.NamedTemporaryFile(prefix="sage-eval-server-", suffix=".log", delete=False) as file:
                log = Path(file.name)
        self._log = log
        self._said = self._log.stat().st_size if self._log.exists() else 0
        context = multiprocessing.get_context("spawn")
        answers, answer = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(options, name, port, str(self._log), answer))
        self._process.start()
        atexit.register(self.close)  # after multiprocessing's own, which would wait for it for ever
        try:
            if not connection.wait([answers, self._process.sentinel], within):
                raise EngineError(f"its server was not ready within {within:g} s; its last words: {self._last_words()}")
            if not answers.poll():
                raise EngineError(self.explain("its server did not start"))
            if isinstance(reply := answers.recv(), SageEvalError):
                raise reply
        except BaseException:
            self.close()
            raise
        self.command: str = reply

    def stream(self, batch: Sequence[Payload]) -> Iterator[tuple[int, Reply]]:
        with self.explained():
            yield from super().stream(batch)

    def ask(self, question: Callable[[Client], Coroutine[Any, Any, T]]) -> list[T]:
        with self.explained():
            return super().ask(question)

    def explain(self, error: str) -> str:
        """Why requests failed by `error`: if the server has ended or is about to, of what."""
        self._process.join(DYING_SECONDS)
        return error if self._process.is_alive() else f"its server ended: {self._last_words()}"

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What fails inside because the server has ended says of what."""
        try:
            yield
        except (EngineError, PrerequisiteError) as error:
            if (reason := self.explain(str(error))) == str(error):
                raise
            raise EngineError(reason) from error

    def close(self) -> None:
        """Close the connections, end the server with all its processes, and free its port. May be called twice."""
        try:
            super().close()
        finally:
            atexit.unregister(self.close)
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._process.is_alive():
                    host.kill({psutil.Process(self._process.pid)})
            self._process.join()
            self._reserved.close()
            if self._own:
                self._log.unlink(missing_ok=True)

    def _last_words(self) -> str:
        """Its last error. SGLang's own last words are that a child has failed; which error it was is further up."""
        text = self._log.read_bytes()[self._said :].decode(errors="replace") if self._log.exists() else ""
        lines = [
            " ".join(line.split())[:300] for line in text.splitlines() if re.search(r"\berror\b", line, re.IGNORECASE)
        ]
        return last_error(text) or (lines[-1] if lines else _ending(self._process.exitcode))


def open_served(
    options: ArmOptions, vocabulary: int | None = None, log: Path | None = None, within: float = START_SECONDS
) -> Arm:
    """An arm on a server of its own; closing the arm ends it.

    `vocabulary` is the number of the model's token ids, the rest as for `ServedEngine`, which says what is raised.
    """
    engine = ServedEngine(options, log, within)
    try:
        return Arm(options, engine, vocabulary)
    except BaseException:
        engine.close()
        raise


def command(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The shell command of a server with these keywords of `ServerArgs`, on any MODEL with its own tokenizer."""
    words = [f"{name}={value}" for name, value in environment.items()]
    words += ["python", "-m", "sglang.launch_server", "--model-path", "MODEL"]
    for name, value in arguments.items():
        if name not in ("model_path", "tokenizer_path") and value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _serve(options: ArmOptions, name: str, port: int, log: str, answer: "connection.Connection[Any, Any]") -> None:
    """Serve until killed; the answer is the command, once the server has warmed up, or what it refuses."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    import torch
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs

    try:
        check_before_start(options)
    except SageEvalError as error:
        answer.send(error)
        return
    keywords = options.server_args("cuda" if torch.cuda.is_available() else "cpu")
    by_hand = command(keywords, options.environment())
    os.environ.update(options.environment())
    load_plugins()
    launch_server(ServerArgs(**{**keywords, "host": name, "port": port}), launch_callback=lambda: answer.send(by_hand))


def _end_with_parent() -> None:
    """Once the parent is gone, killed or not, end every process below this one, and this one."""
    parent = multiprocessing.parent_process()
    assert parent
    connection.wait([parent.sentinel])
    host.kill(host.children())
    os.kill(os.getpid(), signal.SIGKILL)


def _ending(code: int | None) -> str:
    """A process's exit code in words."""
    if code is None:
        return "no error"
    if code >= 0:
        return f"exit code {code}"
    return f"{signal.Signals(-code).name}, with no error in its log; was it short of memory (see dmesg)?"
