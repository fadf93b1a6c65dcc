"""Results and blocks of a record of request rates, made up."""

from sage_eval.probes.rate.record import Block, Result

BASE, FAST = "fa3", "sage_attn+fa3"


def answers(ttft, *, tail=0.1, seconds=None):
    """A result: each request's last token comes `tail` seconds after its first."""
    latency = [value + tail for value in ttft]
    itl = {"mean": 0.01, "p50": 0.01, "p95": 0.02, "p99": 0.02}
    return Result(
        seconds=seconds or max(latency), input_tokens=100 * len(ttft), output_tokens=10 * len(ttft), ttft=ttft,
        latency=latency, itl=itl,
    )  # fmt: skip


def block(rate, repeat, results, *, arrivals=(0.0, 1.0, 2.0), sending=2.5, **more):
    values = {"seed": repeat, "arrivals": list(arrivals), "sending": sending, "interleaved": len(results) > 1} | more
    return Block(rate=rate, repeat=repeat, results=results, **values)


def paced(*slopes, late=0.0):
    """A repeat for each of `slopes`: 60 requests, one a second, whose waits grow by so many seconds a second.

    The generator is `late` seconds behind its plan in the end.
    """
    seconds = [float(second) for second in range(60)]
    waits = [[0.1 + slope * second for second in seconds] for slope in slopes]
    return [
        block(
            1.0, repeat, {BASE: answers(ttft, seconds=max(60, 59 + ttft[-1] + 0.1) + late)}, arrivals=seconds,
            sending=60,
        )
        for repeat, ttft in enumerate(waits)
    ]  # fmt: skip
