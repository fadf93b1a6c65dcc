"""What can be refused before an engine takes half a minute to fail."""

import json
import socket
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sage_eval import seams
from sage_eval.engine.options import BACKEND_ARGUMENTS, SAGE, ArmOptions
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.parsing import nearest
from sage_eval.store import provenance

INDEX = "*.safetensors.index.json"
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf")
_AGAIN = "copy or download it again"
HOST = "127.0.0.1"

ON_CPU = (SAGE, "torch_native", "flex_attention")
"""The backends that run without an accelerator, on our platform."""


def check_before_start(options: ArmOptions) -> Any:
    """The model's Hugging Face config; `UsageError`, `PrerequisiteError` or `DataError` for what cannot start."""
    check_backend(options)
    config = load_config(options)
    if options.uses_sage:
        from sage_eval.attention.guard import check_config, check_given, check_settings

        text = config.get_text_config()
        check_given(options.engine)
        check_config(text)
        assert options.attention
        if options.attention.kernel == "package" and find_spec("sageattention") is None:
            raise PrerequisiteError("kernel=package needs the released kernels: pip install sageattention==1.0.6")
        check_settings(options.attention, _capability(), options.engine.get("dtype"))
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        for setting in ("shift", "balance"):
            if path := getattr(options.attention, setting, None):
                from sage_eval.attention.vectors import load

                kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
                load(setting, path, text.num_hidden_layers, kv_heads, head_dim)
    folder = Path(options.model).expanduser()
    if folder.is_dir() and options.engine.get("load_format", "auto") in ("auto", "safetensors"):
        check_weights(folder)
    for name in ("port", "nccl_port"):
        if name in options.engine:
            reserve(int(options.engine[name]), setting=name).close()
    return config


def check_weights(folder: Path) -> None:
    """Raise `DataError` for weights that are missing, or a safetensors file that is cut short or damaged.

    By names, sizes and headers alone, which say where each tensor lies: in seconds.
    """
    from safetensors import SafetensorError, safe_open

    for index in sorted(folder.glob(INDEX)):
        try:
            wanted: Iterable[str] = json.loads(index.read_text())["weight_map"].values()
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{index} is no index of weights ({error!r}): {_AGAIN}") from None
        if missing := [name for name in sorted(set(wanted)) if not (folder / name).is_file()]:
            listed = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
            raise DataError(f"{folder} lacks {len(missing)} of its weight files ({listed}): {_AGAIN}")
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} is no safetensors file, or is cut short ({error}): {_AGAIN}") from None
    if not files and not any(any(folder.glob(pattern)) for pattern in OTHER_FORMATS):
        raise DataError(f"{folder} has no weights: no *.safetensors is there, nor {', '.join(OTHER_FORMATS)}")


def check_backend(options: ArmOptions) -> None:
    """Raise `UsageError`, with the list of known names, for an attention backend SGLang does not have.

    Raises `PrerequisiteError` for one that needs a GPU where there is none, and where SGLang itself is not one that we
    know.
    """
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES

    from sage_eval.plugins import activate_cpu_platform

    load_plugins()
    if SAGE in ATTENTION_BACKEND_CHOICES:
        seams.check()
    for argument in BACKEND_ARGUMENTS:
        name = options.engine.get(argument)
        if name is None:
            continue
        if name in ATTENTION_BACKEND_CHOICES:
            if name not in ON_CPU and activate_cpu_platform():
                raise PrerequisiteError(
                    f"{argument}={name} needs a GPU, and this host has none: here run {', '.join(ON_CPU)}"
                )
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
    except Exception as error:  # a configuration's own validation has errors of many classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PrerequisiteError(
            f"no model at {options.model!r}: neither a folder with a config.json nor a model the hub answers for "
            f"({reason})"
        ) from error


def _capability() -> tuple[int, int] | None:
    """The first GPU's compute capability, or None without one. By NVML: no context is opened on it."""
    import torch

    devices = provenance.devices() if torch.cuda.is_available() else []
    if not devices:
        return None
    major, minor = devices[0]["compute_capability"].split(".")
    return int(major), int(minor)


def reserve(port: int = 0, host: str = HOST, setting: str = "port") -> socket.socket:
    """A socket that keeps a port (0: a free one) from everyone but SGLang, which binds it when the model is loaded.

    While it is open the system hands its port to nobody. Since it does not listen, a server may: like this socket, it
    sets `SO_REUSEADDR`. Raises `PrerequisiteError` for a port that is taken.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        reason = error.strerror or error
        raise PrerequisiteError(f"host={host}, {setting}={port}: {reason}; choose another port") from None
    return held
