"""The entry points that SGLang loads, in the parent and in every scheduler process. Imports nothing heavy.

`sglang.srt.plugins`   → `register_sglang`: the backend name `sage_attn`, and the hooks that go with it.
`sglang.srt.platforms` → `activate_cpu_platform`: lets SGLang run where there is no accelerator.

SGLang logs and swallows what a plugin raises, so what can go wrong later (an unsupported model, a missing package) is
raised where the backend is built, in the scheduler, and not here.
"""

import os
from collections.abc import Callable
from typing import Any

from sage_eval import seams
from sage_eval.engine import scheduler_profile, token_columns

BACKEND = "sage_attn"


def register_sglang() -> None:
    """Add `sage_attn` to SGLang's attention backends; to the server info its coverage, settings, memory.

    Profiles that carry our label get marks of their layers.
    """
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES, add_attention_backend_choices

    if BACKEND not in ATTENTION_BACKEND_CHOICES:
        add_attention_backend_choices([BACKEND])
    register_attention_backend(BACKEND)(create_backend)
    HookRegistry.register(seams.INTERNAL_STATE, _add_state, HookType.AFTER)
    for method, hook in (("_start_profile", scheduler_profile.start), ("_stop_profile", scheduler_profile.stop)):
        HookRegistry.register(f"{seams.PROFILER}.{method}", hook, HookType.AROUND)
    if activate_cpu_platform():
        HookRegistry.register(seams.SUPPORT_TRITON, _no_triton_on_cpu, HookType.AROUND)
    if seams.TOKEN_COLUMNS in seams.hooked():
        HookRegistry.register(seams.TOKEN_COLUMNS, token_columns.fetch_once, HookType.AROUND)


def create_backend(runner: Any) -> Any:
    """SGLang's factory for `sage_attn`: `runner` is its `ModelRunner`, the result an `AttentionBackend`.

    Raises `UsageError` for a configuration that SageAttention cannot serve, naming the setting, and
    `PrerequisiteError` where SGLang is not what we hold on to, naming its version.
    """
    seams.check()
    try:
        from sage_eval.attention.coverage import COUNTER
        from sage_eval.attention.guard import check_runner
        from sage_eval.attention.settings import AttentionSettings

        settings = AttentionSettings.from_env()
        COUNTER.layers = len(check_runner(runner))
        if runner.device == "cpu":
            from sage_eval.attention.cpu_backend import SageTorchAttnBackend

            return SageTorchAttnBackend(runner, settings)
        from sage_eval.attention.backend import SageAttnBackend

        return SageAttnBackend(runner, settings)
    except (AttributeError, ImportError, TypeError) as error:
        raise seams.changed(f"is built otherwise than sage_attn expects ({error!r})") from error


def activate_cpu_platform() -> str | None:
    """SGLang's platform probe: our platform's class on a host with no accelerator, else None.

    It must be None wherever a GPU is present, or it would win over SGLang's own platform there.
    """
    import torch

    if torch.cuda.is_available() or torch.xpu.is_available():
        return None
    return "sage_eval.platforms.cpu.SageCpuPlatform"


def _no_triton_on_cpu(original: Callable[[str], bool], backend: str) -> bool:
    """SGLang launches Triton kernels for bookkeeping unless the backend's name is `torch_native`."""
    return backend != BACKEND and original(backend)


def _add_state(result: Any, scheduler: Any, *_: Any, **__: Any) -> None:
    """Coverage and settings of `sage_attn`, memory where it is asked for, and what SGLang made of `dtype=auto`.

    Its own settings keep that, and no device at all, as it was asked for.
    """
    import torch

    from sage_eval.attention.coverage import COUNTER
    from sage_eval.attention.settings import AttentionSettings
    from sage_eval.engine import scheduler_memory

    if COUNTER.layers:
        result.internal_state["sage_attn_coverage"] = COUNTER.snapshot()
        result.internal_state["sage_attn_settings"] = AttentionSettings.from_env().model_dump(mode="json")
    runner = scheduler.tp_worker.model_runner
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else str(runner.device)
    result.internal_state["sage_eval_model"] = {"dtype": str(runner.dtype).removeprefix("torch."), "device": name}
    if os.environ.get(scheduler_memory.SWITCH):
        result.internal_state[scheduler_memory.KEY] = scheduler_memory.read_and_reset(scheduler)
