"""Memory as SGLang's scheduler process sees it. Runs there, and travels with SGLang's server info.

`torch.cuda`'s peaks are taken between two readings: each reading resets them. Because that would disturb others who
read them, it happens only where the environment has `SWITCH`, which the probes set.
"""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KEY = "sage_eval_memory"
SWITCH = "SAGE_EVAL_MEMORY_PROBE"


RANKS = "ranks"
"""Of a reading: the peaks (`peak_allocated`, or `peak_rss`) of all tensor-parallel ranks, this one's included."""


def read_and_reset(scheduler: Any) -> dict[str, Any]:
    """`_read`, and the `RANKS`, all of which SGLang asks at the same step; rank 0 alone answers."""
    from torch import distributed

    found: dict[str, Any] = _read(scheduler)
    peak = found.get("peak_allocated", found.get("peak_rss"))
    peaks = [peak] * distributed.get_world_size(scheduler.tp_cpu_group)
    distributed.all_gather_object(peaks, peak, group=scheduler.tp_cpu_group)
    return found | {RANKS: peaks}


def read_ranks(states: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The first rank's reading out of the `internal_states` of SGLang's server info, one for each data-parallel rank.

    Of several ranks `peak_rank_N` is that of each. Empty where nothing was read.
    """
    found = [dict(state[KEY]) for state in states if KEY in state]
    peaks = [peak for each in found for peak in each.pop(RANKS)]
    ranks = {f"peak_rank_{rank}": peak for rank, peak in enumerate(peaks)} if len(peaks) > 1 else {}
    return found[0] | ranks if found else {}


def _read(scheduler: Any) -> dict[str, int]:
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
