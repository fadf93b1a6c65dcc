"""The GPU's state by NVML, without opening a context on it: clocks, power, temperature, and who else is there."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sage_eval.errors import PrerequisiteError


@contextmanager
def _device() -> Iterator[Any]:
    """NVML and the handle of the GPU that SGLang will take, or None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML's own error classes, or no library at all: both mean "no GPU"
        yield None
        return
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    handle = None
    try:
        with suppress(pynvml.NVMLError):
            if first.lstrip("-").isdigit():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
            elif first:  # set, and empty: CUDA sees none
                handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        yield None if handle is None else (pynvml, handle)
    finally:
        pynvml.nvmlShutdown()


def state() -> dict[str, Any] | None:
    """SM and memory clock in MHz, power in W, temperature in °C, throttle reasons (bits), free MiB; None without a GPU.

    What the driver does not tell is left out.
    """
    with _device() as found:
        if found is None:
            return None
        nvml, handle = found
        questions: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "watts": lambda: round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "throttle": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
            "free_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).free >> 20,
        }
        answers = {}
        for name, ask in questions.items():
            try:
                answers[name] = int(ask())
            except nvml.NVMLError:
                continue
        return answers


def require_idle() -> None:
    """Raise `PrerequisiteError` if a process computes on the GPU already; call it before any engine is started."""
    with _device() as found:
        if found is None:
            return
        nvml, handle = found
        try:
            others = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError:
            return
        if others:
            ids = ", ".join(str(process.pid) for process in others)
            raise PrerequisiteError(
                f"the GPU is in use by another process ({ids}), which would share its time: wait for it, choose "
                "another GPU by CUDA_VISIBLE_DEVICES, or measure all the same with --shared-gpu"
            )
