"""Memory as SGLang's scheduler process sees it. Runs there, and travels with SGLang's server info.

`torch.cuda`'s peaks are taken between two readings: each reading resets them. Because that would disturb others who
read them, it happens only where the environment has `SWITCH`, which the probes set.
"""

import contextlib
from pathlib import Path
from typing import Any

KEY = "sage_eval_memory"
SWITCH = "SAGE_EVAL_MEMORY_PROBE"


def read_and_reset(scheduler: Any) -> dict[str, int]:
    """Bytes: weights, KV cache (and its tokens), allocated and reserved now and at their peak since the last reading.

    Without CUDA the process's resident memory stands in for the four (`rss`, `peak_rss`).
    """
    import torch

    model = scheduler.tp_worker.model_runner.model
    pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
    tensors = {tensor.data_ptr(): tensor for tensor in model.parameters()}  # tied ones once
    found = {
        "weights": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        "kv_cache": int(sum(pool.get_kv_size_bytes())),
        "kv_tokens": int(scheduler.max_total_num_tokens),
    }
    if not torch.cuda.is_available():
        return found | resident()
    torch.cuda.synchronize()
    found |= {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }
    torch.cuda.reset_peak_memory_stats()
    return found


def resident() -> dict[str, int]:
    """Resident bytes of this process by Linux's count, now and at the peak, which is reset where that is allowed."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return {"rss": now, "peak_rss": peak}
