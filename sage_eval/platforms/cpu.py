"""SGLang platform for hosts with no accelerator.

SGLang's own CPU engine (`SGLANG_USE_CPU_ENGINE=1`) needs a build of `sgl_kernel` for CPUs that PyPI does not have.
As an out-of-tree platform the ordinary wheels run: every operation takes its native PyTorch path.
"""

import os
from typing import Any

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

MEM_FRACTION_STATIC = 0.5
MAX_TOTAL_TOKENS = 32_768
"""Tokens in the KV cache by default: enough for tests and demos, and not half of the machine's memory."""
CORES = "SGLANG_CPU_OMP_THREADS_BIND"
RANKS = 64
"""SGLang starts more ranks than the host has NUMA nodes only where `CORES` has a place for each."""


class SageCpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """SGLang on a plain CPU, in PyTorch alone."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Defaults that SGLang derives from a GPU's memory and that come out absurd on a CPU; explicit values win."""
        if server_args.mem_fraction_static is None:
            server_args.mem_fraction_static = MEM_FRACTION_STATIC
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = MAX_TOTAL_TOKENS
        if server_args.tp_size * server_args.dp_size * server_args.pp_size > 1:
            cores = sorted(os.sched_getaffinity(0))
            os.environ.setdefault(CORES, "|".join(str(cores[rank % len(cores)]) for rank in range(RANKS)))

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_device(self, device_id: int | None = None) -> torch.device:
        """The CPU. Without an id SGLang asks for the device's name, as for its own platforms, and splits it."""
        return "cpu" if device_id is None else torch.device("cpu")  # type: ignore[return-value]

    def get_dispatch_key_name(self) -> str:
        return "native"

    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool  # type: ignore[no-any-return]

    def get_paged_allocator_cls(self) -> type:
        from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator

        return PagedTokenToKVPoolAllocator  # type: ignore[no-any-return]

    def get_torch_profiler_activity_str(self) -> str:
        return "CPU"

    def get_torch_profiler_activity(self) -> torch.profiler.ProfilerActivity:
        return torch.profiler.ProfilerActivity.CPU

    def set_device(self, device: torch.device) -> None:
        """There is only one CPU."""
