"""An arm's process for `rate`: it starts an SGLang server as its child, and says how that server is."""

import contextlib
import multiprocessing
import os
import shlex
import socket
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

from sage_eval.arms.engine import engine_info
from sage_eval.engine import coverage
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.post_mortem import last_error
from sage_eval.engine.server import ServerEngine
from sage_eval.errors import EngineError, SageEvalError

HOST = "127.0.0.1"
DYING_SECONDS = 10.0
"""SGLang's server outlives its scheduler by some seconds, in which it looks for what to report."""
LOG = Path("/proc/self/fd/2")
"""This process's log, which the server writes to as well."""

T = TypeVar("T")


class RateServer:
    """Serves at `address`. Whatever fails because the server has ended says why it has."""

    def __init__(self, model: str, arguments: dict[str, Any]) -> None:
        self._reserved = reserve()
        port = self._reserved.getsockname()[1]
        self._url = f"http://{HOST}:{port}"
        context = multiprocessing.get_context("spawn")
        answers, answer = context.Pipe(duplex=False)
        self._server = context.Process(target=_serve, args=(model, arguments, port, answer))
        self._server.start()
        connection.wait([answers, self._server.sentinel])
        if not answers.poll():
            raise EngineError(self.explain("its server did not start"))
        reply = answers.recv()
        if isinstance(reply, SageEvalError):
            raise reply
        self._command: str = reply

    def introduction(self) -> dict[str, Any]:
        """Fields of a `store.record.ArmEntry`."""
        return {"engine": engine_info(self._ask(ServerEngine.info)), "command": self._command}

    def address(self) -> str:
        """Where the server listens."""
        return self._url

    def freeze_gc(self) -> None:
        """Have its processes leave what they hold now out of garbage collection."""
        self._ask(ServerEngine.freeze_gc)

    def coverage(self) -> dict[str, float]:
        """Tokens by "phase/kernel" since the start; empty for a backend that does not count."""
        return coverage.read_counters(self._ask(ServerEngine.info)) or {}

    def explain(self, error: str) -> str:
        """Why requests failed by `error`: if the server has ended or is about to, of what."""
        self._server.join(DYING_SECONDS)
        if self._server.is_alive():
            return error
        # SGLang's own last words are that a child has failed; which error it was stands further up.
        reason = last_error(LOG.read_text(errors="replace")) or f"exit code {self._server.exitcode}"
        return f"its server ended: {reason}"

    def close(self) -> None:
        """End the server; its own processes end with it."""
        self._server.kill()
        self._server.join()

    def _ask(self, request: Callable[[ServerEngine], T]) -> T:
        try:
            with contextlib.closing(ServerEngine(self._url)) as engine:
                return request(engine)
        except SageEvalError as error:
            raise EngineError(self.explain(str(error))) from error


def _serve(model: str, arguments: dict[str, Any], port: int, answer: "connection.Connection[Any, Any]") -> None:
    """Serve until killed; the answer is the command, once the server has warmed up, or what it refuses."""
    import torch
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs

    from sage_eval.engine.checks import check_before_start

    try:
        options = ArmOptions.from_arguments(model, **arguments)
        check_before_start(options)
    except SageEvalError as error:
        answer.send(error)
        return
    keywords = options.server_args("cuda" if torch.cuda.is_available() else "cpu")
    by_hand = command(keywords, options.environment())
    os.environ.update(options.environment())
    load_plugins()
    launch_server(ServerArgs(**{**keywords, "host": HOST, "port": port}), launch_callback=lambda: answer.send(by_hand))


def command(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The shell command of a server with these keywords of `ServerArgs`, on any MODEL with its own tokenizer."""
    words = [f"{name}={value}" for name, value in environment.items()]
    words += ["python", "-m", "sglang.launch_server", "--model-path", "MODEL"]
    for name, value in arguments.items():
        if name not in ("model_path", "tokenizer_path") and value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def reserve() -> socket.socket:
    """A socket that keeps a free port from everyone but SGLang, which binds it when the model is loaded.

    While it is open the system hands its port to nobody. Since it does not listen, a server may: like this socket, it
    sets `SO_REUSEADDR`.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, 0))
    return held
