"""What a worker process opens for most instruments: an arm's engine, which says what it is and what it has counted."""

from typing import Any

from sage_eval.engine import coverage
from sage_eval.engine.arm import open_arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.scheduler_memory import read_ranks

_TOLD = (
    "version", "device", "dtype", "attention_backend", "prefill_attention_backend", "decode_attention_backend",
    "chunked_prefill_size", "max_prefill_tokens", "max_total_num_tokens", "max_running_requests",
    "mem_fraction_static", "page_size", "kv_cache_dtype", "disable_radix_cache", "disable_overlap_schedule",
    "disable_cuda_graph", "cuda_graph_config", "enable_fp32_lm_head", "context_length", "load_format", "tp_size",
    "sampling_backend",
)  # fmt: skip


class EngineHost:
    """Opens an engine in this process; instruments add the methods that their parent asks for (`worker.Worker`)."""

    def __init__(self, model: str, arguments: dict[str, Any], **more: Any) -> None:
        self.arm = open_arm(ArmOptions.from_arguments(model, **arguments, **more))

    def introduction(self) -> dict[str, Any]:
        """Fields of a `store.record.ArmEntry`."""
        return {"engine": engine_info(self.arm.info()), "memory": self.memory()}

    def memory(self) -> dict[str, int]:
        """Bytes that the scheduler counts; empty unless its environment asks for that (`engine.scheduler_memory`)."""
        return read_ranks(self.arm.info()["internal_states"])

    def coverage(self) -> dict[str, float]:
        """Tokens by "phase/kernel" since the start; empty for a backend that does not count."""
        return coverage.read_counters(self.arm.info()) or {}

    def close(self) -> None:
        self.arm.close()


def engine_info(info: dict[str, Any]) -> dict[str, Any]:
    """What of SGLang's server info decides numbers and speed."""
    # SGLang's own `memory_usage` is left out: it is free memory before minus after, which others change meanwhile.
    return {name: info[name] for name in _TOLD if info.get(name) is not None}
