"""Quantiles, ratios and limits of a record. Pure functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sage_eval.probes.rate.load import quantiles, sent
from sage_eval.probes.rate.record import Block, Record, Result
from sage_eval.probes.ratio import ratio

KEPT_UP = 0.95
"""Share of the rate of requests at which the answers of a server that keeps up must come."""


def summarise(record: Record) -> dict[str, Any]:
    """A row of every rate and arm, rates ascending, and what each arm can do at most."""
    rows = [
        row(record, arm, rate)
        for rate in sorted({block.rate for block in record.blocks}, key=lambda rate: rate or float("inf"))
        for arm in record.arms
        if any(arm in block.results for block in record.blocks if block.rate == rate)
    ]
    return {
        "rows": rows,
        "limits": {arm: limit([found for found in rows if found["arm"] == arm]) for arm in record.arms},
    }


def row(record: Record, arm: str, rate: float | None) -> dict[str, Any]:
    """One line of the table, over all repeats: times in seconds, of all requests; rates are medians of repeats."""
    blocks = chosen(record, arm, rate)
    results = [block.results[arm] for block in blocks]
    return {
        "rate": rate,
        "arm": arm,
        "repeats": len(blocks),
        "requests": sum(len(result.ttft) for result in results),
        "sent": None if rate is None else _median([sent(block.arrivals) for block in blocks]),
        "done": _median([len(result.ttft) / result.seconds for result in results]),
        "kept": None if rate is None else _median([kept(block, arm) for block in blocks]),
        "input_rate": _median([result.input_tokens / result.seconds for result in results]),
        "output_rate": _median([result.output_tokens / result.seconds for result in results]),
        "ttft": quantiles([value for result in results for value in result.ttft]),
        "itl": {name: _median([result.itl[name] for result in results]) for name in results[0].itl},
        "latency": quantiles([value for result in results for value in result.latency]),
        "behind": max(behind(block, result) for block, result in zip(blocks, results, strict=True)),
        "ratio": None if arm == record.baseline else compare(record, blocks, arm),
    }


def chosen(record: Record, arm: str, rate: float | None) -> list[Block]:
    """Of each repeat the block of `arm` that counts: one with the baseline beside it, and of several the last."""
    found: dict[int, Block] = {}
    for block in record.blocks:
        if block.rate == rate and arm in block.results:
            old = found.get(block.repeat)
            if old is None or record.baseline in block.results or record.baseline not in old.results:
                found[block.repeat] = block
    return [found[repeat] for repeat in sorted(found)]


def compare(record: Record, blocks: Sequence[Block], arm: str) -> dict[str, Any] | None:
    """How many times as fast `arm` has its first token: the baseline's median over the arm's, paired by repeat.

    The interval is the range of the repeats. There is none over requests: they wait for each other, so a run of a
    hundred is not a hundred measurements. None where there is no baseline.
    """
    paired = all(block.interleaved and record.baseline in block.results for block in blocks)
    beside = blocks if paired else chosen(record, record.baseline, blocks[0].rate)
    if not beside:
        return None
    base = [_median(block.results[record.baseline].ttft) for block in beside]
    return ratio(base, [_median(block.results[arm].ttft) for block in blocks], paired=paired)


def kept(block: Block, arm: str) -> float:
    """The rate of the answers, from the first to the last, over the rate of the requests; 1 where it is higher.

    It is higher where the first answer was slow and the others caught up. Requests done over the time of everything
    would be fewer than were asked for even of a fast server, since its last answer comes after the last request.
    """
    ends = _ends(block.arrivals, block.results[arm])
    return min(1.0, block.arrivals[-1] / (max(ends) - min(ends)))


def behind(block: Block, result: Result) -> float:
    """Seconds by which the run took longer than the generator's plan and the answers explain: the generator's own."""
    return result.seconds - max(block.sending, *_ends(block.arrivals, result))


def limit(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one arm's rows: the highest rate that it kept up with, and what it did with all requests at once."""
    kept_up = [found["rate"] for found in rows if found["kept"] is not None and found["kept"] >= KEPT_UP]
    at_once = next((found for found in rows if found["rate"] is None), None)
    return {
        "knee": max(kept_up, default=None),
        "tried": any(found["rate"] is not None for found in rows),
        "done": at_once and at_once["done"],
        "input_rate": at_once and at_once["input_rate"],
    }


def _ends(arrivals: Sequence[float], result: Result) -> list[float]:
    return [start + latency for start, latency in zip(arrivals, result.latency, strict=True)]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
