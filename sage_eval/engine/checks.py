"""What can be refused before an engine takes half a minute to fail."""

import socket
from pathlib import Path
from typing import Any

from sage_eval.engine.options import SAGE, ArmOptions, nearest
from sage_eval.errors import PrerequisiteError, UsageError


def check_before_start(options: ArmOptions) -> Any:
    """Raise `UsageError` or `PrerequisiteError` for what cannot start; returns the model's Hugging Face config."""
    check_backend(options)
    config = load_config(options)
    if options.uses_sage:
        from sage_eval.attention.guard import check_head_dim

        text = config.get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        check_head_dim(head_dim)
        check_package(options)
        if options.attention and options.attention.smooth_k == "static" and options.attention.shift:
            from sage_eval.attention.shift import load_shifts

            kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
            load_shifts(options.attention.shift, text.num_hidden_layers, kv_heads, head_dim)
    for name in ("port", "nccl_port"):
        if name in options.engine:
            check_port(int(options.engine[name]), name)
    return config


def check_backend(options: ArmOptions) -> None:
    """Raise `UsageError`, with the list of known names, for an attention backend SGLang does not have."""
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES

    load_plugins()
    for argument in ("attention_backend", "prefill_attention_backend", "decode_attention_backend"):
        name = options.engine.get(argument)
        if name is None or name in ATTENTION_BACKEND_CHOICES:
            continue
        if name == SAGE:
            raise PrerequisiteError(
                f"SGLang did not load the plugin that provides {SAGE}; is sage-eval installed in this environment, and "
                "does SGLANG_PLUGINS, if set, name it?"
            )
        known = ", ".join(sorted(ATTENTION_BACKEND_CHOICES))
        raise UsageError(f"{argument}={name!r} is unknown{nearest(name, ATTENTION_BACKEND_CHOICES)}; known: {known}")


def load_config(options: ArmOptions) -> Any:
    """The model's `PretrainedConfig`; `PrerequisiteError` where there is no such model."""
    from transformers import AutoConfig

    path = Path(options.model).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise PrerequisiteError(f"{options.model} is not a model folder: it has no config.json")
    try:
        return AutoConfig.from_pretrained(
            options.model,
            revision=options.engine.get("revision"),
            trust_remote_code=bool(options.engine.get("trust_remote_code", False)),
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PrerequisiteError(
            f"no model at {options.model!r}: neither a folder with a config.json nor a model the hub answers for "
            f"({reason})"
        ) from error


def check_package(options: ArmOptions) -> None:
    """Raise `PrerequisiteError` where kernel=package is asked for and `sageattention` is missing."""
    from importlib.util import find_spec

    if options.attention and options.attention.kernel == "package" and find_spec("sageattention") is None:
        raise PrerequisiteError("kernel=package needs the released kernels: pip install sageattention==1.0.6")


def check_port(port: int, name: str = "port") -> None:
    """Raise `PrerequisiteError` if something listens on `port` already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PrerequisiteError(f"{name}={port} is in use; choose another or stop what listens there") from None
