"""What SGLang tells a forward hook about a prefill batch. Runs in the scheduler process."""

from typing import Any


def lengths(batch: Any) -> tuple[list[int], list[int]]:
    """Cached and new tokens of each sequence, in the order of the batch: from the device where the host has no copy."""
    cached, new = batch.extend_prefix_lens_cpu, batch.extend_seq_lens_cpu
    if cached is None or new is None:
        cached, new = batch.extend_prefix_lens.tolist(), batch.extend_seq_lens.tolist()
    return list(cached), list(new)
