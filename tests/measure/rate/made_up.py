"""Rows of a record of request rates, made up."""

from sage_eval.measure.rate.plan import label
from sage_eval.measure.rate.summary import Run

BASE, FAST = "fa3", "sage_attn+fa3"


def run(arm, rate, repeat, ttft, *, block=None, late=0.0, **more):
    """A row in which one request is sent per second, or all at once; each last token comes 0.1 s after the first."""
    sent = [float(place) if rate else 0.0 for place in range(len(ttft))]
    latency = [value + 0.1 for value in ttft]
    values = {
        "sent": sent, "late": late, "seconds": 2.5 if rate else max(latency), "seed": repeat,
        "itl": {"mean": 0.01, "p50": 0.01, "p95": 0.02, "p99": 0.02},
    }  # fmt: skip
    return Run(
        arm=arm, cell=f"{label(rate)}, repeat {repeat + 1}", block=repeat + (10 if rate is None else 0)
        if block is None else block, rate=rate, repeat=repeat, ttft=ttft, latency=latency,
        input_tokens=100 * len(ttft), output_tokens=10 * len(ttft), **(values | more),
    )  # fmt: skip


def paced(*slopes, late=0.0):
    """A repeat for each of `slopes`: 60 requests, one per second, whose waits grow by so many seconds per second."""
    return [
        run(BASE, 1.0, repeat, [0.1 + slope * second for second in range(60)], late=late)
        for repeat, slope in enumerate(slopes)
    ]
