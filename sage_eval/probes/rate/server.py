"""One arm's SGLang server in a process of its own, which ends with the process that asked for it.

The first line on stdin is what to serve. The answer, once the server has warmed up, says where it listens and which
command starts the same server by hand.
"""

import os
import shlex
import socket
from collections.abc import Callable, Mapping
from typing import Any

from sage_eval.engine.options import ArmOptions
from sage_eval.errors import SageEvalError
from sage_eval.probes.orders import commands, private_stdout, say

HOST = "127.0.0.1"


def main() -> None:
    """Serve until killed. An error of this project is an answer; any other one ends the process, its log says why."""
    replies, orders = private_stdout(), commands()
    try:
        _serve(orders.get(), lambda answer: say(replies, answer))
    except SageEvalError as error:
        say(replies, {"error": " ".join(str(error).split()), "type": type(error).__name__})


def _serve(order: dict[str, Any], ready: Callable[[dict[str, Any]], None]) -> None:
    import torch
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs

    from sage_eval.engine.checks import check_before_start

    options = ArmOptions.from_arguments(order["model"], **order["arguments"])
    check_before_start(options)
    arguments = options.server_args("cuda" if torch.cuda.is_available() else "cpu")
    reserved = reserve()  # for as long as this function runs
    port = reserved.getsockname()[1]
    answer = {"url": f"http://{HOST}:{port}", "command": command(arguments, options.environment())}
    os.environ.update(options.environment())
    load_plugins()
    launch_server(ServerArgs(**{**arguments, "host": HOST, "port": port}), launch_callback=lambda: ready(answer))


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


if __name__ == "__main__":
    main()
