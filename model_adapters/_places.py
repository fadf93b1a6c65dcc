"""Where an arm's engine is: in this process, in a server of its own, or at an address."""

from pathlib import Path
from typing import Any

from model_adapters._windows import Window
from sage_eval.engine.arm import Arm, open_arm
from sage_eval.engine.launch import open_served
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.server import open_server
from sage_eval.errors import UsageError


def check_place(base_url: Any, serve: Any) -> None:
    """Raise `UsageError` where two of them are to answer."""
    if base_url and serve:
        raise UsageError("base_url names running servers, and serve=True starts one: give one of them")


def opened(
    options: ArmOptions,
    config: Any,
    window: Window,
    *,
    base_url: Any,
    served_model: str | None,
    num_concurrent: int,
    max_retries: int,
    timeout: float,
    serve: bool,
    start_timeout: float,
    server_log: str | Path | None,
) -> Arm:
    """The arm; at an address `window` is what the servers there take. Arguments as of `SGLangSageLM`."""
    check_place(base_url, serve)
    size = int(config.get_text_config().vocab_size)
    if base_url is not None:
        arm = open_server(
            options, base_url, served_model=served_model, vocabulary=size,
            connections=int(num_concurrent), silence=float(timeout), retries=int(max_retries),
        )  # fmt: skip
        window.length = min(window.length, arm.usable_tokens)
        return arm
    if "context_length" not in options.engine:
        options = options.model_copy(update={"max_length": window.length})
    if serve:
        log = Path(server_log) if server_log else None
        return open_served(options, vocabulary=size, log=log, within=float(start_timeout))
    return open_arm(options)
