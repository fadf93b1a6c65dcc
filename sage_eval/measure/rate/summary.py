"""Rows of `rate.json`, and what they say: quantiles, ratios, and whether a server kept up with a rate.

A server that keeps up has a queue that comes and goes. One that is asked for `x` % more than it can do has a queue
that grows, and with it the time to first token, by `x / 100` seconds a second (the fluid approximation of a queue:
Kleinrock, Queueing Systems II, chapter 2). How fast the answers come does not show that, for a slow first answer hides
what is lost later; nor does the time to the last token, for the last requests share the server with nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from sage_eval.measure.base import Row
from sage_eval.measure.rate.plan import NEAR
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from sage_eval.statistics.ratio import Ratio

GROWTH = 0.05
"""Seconds a second by which the time to first token may grow: the tolerance."""

CHANCE = 0.5
"""Over the root of the number of requests: what must come to the tolerance before a server is said to fall behind.

So much that a queue at 90 % of what the server can do is hardly ever said to; see `kept`.
"""

LATENCIES = 10
"""Median latencies that a run must last before a server is said to keep up.

In a shorter one it is still filling up. And the median latency of one that is asked for `x` % more than it can do comes
to `x / 200` of the run, be it spent in a queue or in ever larger batches: whatever chance makes of the tolerance, what
is said to keep up is asked for 20 % too much at most.
"""


def growth(arrivals: Sequence[float], ttft: Sequence[float]) -> tuple[float, float] | None:
    """Seconds a second by which the time to first token grew: up to the middle third of the requests, and from there.

    Both are in seconds, one a request; None with fewer than three.
    """
    if len(ttft) < 3:
        return None
    times, waits = ([part.mean() for part in np.array_split(values, 3)] for values in (arrivals, ttft))
    early, late = (
        float((b - a) / (end - start)) for (a, b), (start, end) in zip(pairwise(waits), pairwise(times), strict=True)
    )
    return early, late


def kept_up(arrivals: Sequence[float], ttft: Sequence[float], latency: Sequence[float]) -> bool | None:
    """Whether a server kept up with these requests; None where the run is too short to say. All in seconds.

    Simulated M/D/1 queues, 128 requests whose gaps come to 80, 90, 100, 110, 120 and 150 % of what can be done: kept
    up in 94, 82, 60, 17, 0 and 0 % of runs, fallen behind in 0, 0, 4, 26, 76 and 100 %.
    """
    if (grown := growth(arrivals, ttft)) is None:
        return None
    if min(grown) > GROWTH + CHANCE / len(ttft) ** 0.5:
        return False
    long = arrivals[-1] >= LATENCIES * float(np.median(latency))
    return True if long and grown[-1] <= GROWTH else None


ENOUGH = {"p95": 100, "p99": 500}
"""Values that a quantile takes: five lie beyond it. With fewer it is the largest, or chance between the two largest."""


class Run(Row):
    """One arm's answers at one rate in one repeat, in the order of the requests. Times in seconds.

    Rows of one block were sent the same requests; `rate` is per second, None for all at once.
    """

    rate: float | None
    repeat: int
    seed: int
    sent: list[float]
    """After the first request, when each was sent."""
    late: float
    """By which the load generator sent the last request later than the gaps that were drawn."""
    seconds: float
    """From the first request to the last answer."""
    input_tokens: int
    output_tokens: int
    ttft: list[float]
    """Time to first token of each request."""
    latency: list[float]
    """Time to the last token of each request."""
    itl: dict[str, float]
    """Time between tokens, of all requests: mean, p50, p95, p99; empty where each answer is a single token."""
    gpu: list[dict[str, int]] = Field(default_factory=list)
    """Its state before and after the block; see `arms.gpu.state`."""


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Mean and p50 of `values`, p95 and p99 where there are enough; empty without any."""
    if not values:
        return {}
    p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99))
    found = {"mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95), "p99": float(p99)}
    return known(found, len(values))


def known(found: Mapping[str, float], count: int) -> dict[str, float]:
    """What of the quantiles `found` can be told of `count` values."""
    return {name: value for name, value in found.items() if count >= ENOUGH.get(name, 0)}


@dataclass(frozen=True)
class Summary:
    """One arm at one rate, over all repeats. Times in seconds, of all requests; rates are medians of the repeats.

    `growth` (of the time to first token, in seconds per second), `kept_up` and `late` are those of the worst repeat.
    `kept_up` is None where one cannot say; it, `sent` and `growth` are None for all at once.
    """

    arm: str
    rate: float | None
    repeats: int
    requests: int
    sent: float | None
    done: float
    growth: float | None
    kept_up: bool | None
    input_rate: float
    output_rate: float
    ttft: dict[str, float]
    itl: dict[str, float]
    latency: dict[str, float]
    late: float
    ratio: "Ratio | None"


@dataclass(frozen=True)
class Limit:
    """What one arm can do at most.

    `fell_behind` is the lowest rate at which it did, `kept_up` the highest below that which it kept up with, and
    `undecided` are those between whose runs cannot say. `done` and `input_rate`, requests and input tokens per second,
    are of all requests at once. None, or empty, where there is no such rate.
    """

    kept_up: float | None
    fell_behind: float | None
    undecided: list[float]
    done: float | None
    input_rate: float | None


def summarise(record: Record[Run]) -> list[Summary]:
    """Of every rate and arm, rates ascending."""
    rates = sorted({row.rate for row in record.rows}, key=lambda rate: rate or float("inf"))
    return [_summary(record, arm, rows) for rate in rates for arm in record.arms if (rows := chosen(record, arm, rate))]


def chosen(record: Record[Run], arm: str, rate: float | None) -> list[Run]:
    """Of each repeat the row of `arm` that counts: one with the baseline beside it, and of several the last."""
    beside = _beside(record)
    found: dict[int, Run] = {}
    for row in record.rows:
        if (row.arm, row.rate) == (arm, rate):
            old = found.get(row.repeat)
            if old is None or row.block in beside or old.block not in beside:
                found[row.repeat] = row
    return [found[repeat] for repeat in sorted(found)]


def _summary(record: Record[Run], arm: str, rows: list[Run]) -> Summary:
    paced = [row for row in rows if row.rate is not None]
    grown = [found[-1] for row in paced if (found := growth(row.sent, row.ttft))]
    verdicts = [_verdict(row) for row in paced]
    between_tokens = min(row.output_tokens - len(row.ttft) for row in rows)
    return Summary(
        arm=arm,
        rate=rows[0].rate,
        repeats=len(rows),
        requests=sum(len(row.ttft) for row in rows),
        sent=_median([(len(row.sent) - 1) / row.sent[-1] for row in paced]) if paced else None,
        done=_median([len(row.ttft) / row.seconds for row in rows]),
        growth=max(grown, default=None),
        kept_up=False if False in verdicts else None if None in verdicts or not verdicts else True,
        input_rate=_median([row.input_tokens / row.seconds for row in rows]),
        output_rate=_median([row.output_tokens / row.seconds for row in rows]),
        ttft=quantiles([value for row in rows for value in row.ttft]),
        itl={name: _median([row.itl[name] for row in rows]) for name in known(rows[0].itl, between_tokens)},
        latency=quantiles([value for row in rows for value in row.latency]),
        late=max(row.late for row in rows),
        ratio=None if arm == record.baseline else _compare(record, rows),
    )


def _verdict(row: Run) -> bool | None:
    """Whether an arm kept up with the rate of a row; None where the run cannot say."""
    found = kept_up(row.sent, row.ttft, row.latency)
    # A late generator sent less than the rate: who kept up with that need not keep up with the rate itself.
    return None if found and row.late > NEAR * row.sent[-1] else found


def _compare(record: Record[Run], rows: Sequence[Run]) -> "Ratio | None":
    """How many times as fast an arm has its first token: the baseline's median over the arm's, paired by repeat.

    There is no interval over requests: they wait for each other, so a run of a hundred is not a hundred measurements.
    None where there is no baseline.
    """
    from sage_eval.statistics.ratio import ratio  # scipy would slow --help

    beside = _beside(record)
    paired = all(row.block in beside for row in rows)
    base = [beside[row.block] for row in rows] if paired else chosen(record, str(record.baseline), rows[0].rate)
    if not base:
        return None
    return ratio([_median(row.ttft) for row in base], [_median(row.ttft) for row in rows], paired=paired)


def _beside(record: Record[Run]) -> dict[int, Run]:
    """The baseline's row of each block that has one."""
    return {row.block: row for row in record.rows if row.arm == record.baseline}


def limit(summaries: Sequence[Summary]) -> Limit:
    """Of one arm's summaries by ascending rate."""
    paced = [(found.rate, found.kept_up) for found in summaries if found.rate is not None]
    at_once = next((found for found in summaries if found.rate is None), None)
    fell = next((place for place, (_, kept) in enumerate(paced) if kept is False), len(paced))
    best = max((place for place, (_, kept) in enumerate(paced[:fell]) if kept), default=-1)
    return Limit(
        kept_up=paced[best][0] if best >= 0 else None,
        fell_behind=paced[fell][0] if fell < len(paced) else None,
        undecided=[rate for rate, _ in paced[best + 1 : fell]],
        done=at_once.done if at_once else None,
        input_rate=at_once.input_rate if at_once else None,
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
