"""Runs in SGLang's scheduler process. Imports nothing of this project, so that starting one stays cheap."""

import os
from typing import Any


def run_scheduler(log: str, *args: Any, **kwargs: Any) -> Any:
    """SGLang's scheduler entry with everything it says in the file `log`, where a post-mortem can find it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    from sglang.srt.managers.scheduler import run_scheduler_process

    return run_scheduler_process(*args, **kwargs)


def lengths(batch: Any) -> tuple[list[int], list[int]]:
    """Cached and new tokens of each sequence, in the order of the batch: from the device where the host has no copy."""
    cached, new = batch.extend_prefix_lens_cpu, batch.extend_seq_lens_cpu
    if cached is None or new is None:
        cached, new = batch.extend_prefix_lens.tolist(), batch.extend_seq_lens.tolist()
    return list(cached), list(new)
