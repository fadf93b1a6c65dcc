"""What an engine says of itself, for a record."""

from typing import Any

_TOLD = (
    "attention_backend", "prefill_attention_backend", "decode_attention_backend", "chunked_prefill_size",
    "max_prefill_tokens", "max_total_num_tokens", "max_running_requests", "mem_fraction_static", "page_size", "dtype",
    "kv_cache_dtype", "disable_radix_cache", "disable_overlap_schedule", "cuda_graph_config", "context_length",
    "load_format", "tp_size", "sampling_backend", "version",
)  # fmt: skip


def told(info: dict[str, Any]) -> dict[str, Any]:
    """What of SGLang's server info decides speed."""
    # SGLang's own `memory_usage` is left out: it is free memory before minus after, which others change meanwhile.
    return {name: info[name] for name in _TOLD if info.get(name) is not None}
