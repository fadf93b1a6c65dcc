"""How long a launch takes on the GPU, with a cold L2 cache."""

from collections.abc import Callable
from typing import Any

import torch

LONG_MS = 20.0


def time_ms(launch: Callable[[], Any]) -> list[float]:
    """p20, p50 and p80 in milliseconds.

    `triton.testing.do_bench` empties the L2 cache before each run, but spends seven runs on finding out how many it
    wants. A launch of more than 20 ms does not feel the cache, and is timed three times instead.
    """
    from triton.testing import do_bench

    first = _once(launch)
    if first < LONG_MS:
        result: list[float] = do_bench(launch, warmup=10, rep=50, quantiles=[0.2, 0.5, 0.8])
        return result
    runs = torch.tensor([_once(launch) for _ in range(3)])
    return [float(value) for value in torch.quantile(runs, torch.tensor([0.2, 0.5, 0.8]))]


def _once(launch: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    launch()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
