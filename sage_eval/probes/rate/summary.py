"""Quantiles, ratios and limits of a record. Pure functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sage_eval.probes.rate.load import NEAR, known, quantiles, sent
from sage_eval.probes.rate.record import Block, Record, Result
from sage_eval.probes.rate.steady import growth, kept
from sage_eval.probes.ratio import ratio


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
    """One line of the table, over all repeats: times in seconds, of all requests; rates are medians of repeats.

    `growth` (of the time to first token, in seconds a second) and `kept` are those of the worst repeat; `kept` is None
    where one cannot say. `sent`, `growth` and `kept` are of the moments at which requests were really sent.
    """
    blocks = chosen(record, arm, rate)
    results = [block.results[arm] for block in blocks]
    gaps = min(result.output_tokens - len(result.ttft) for result in results)
    paced = [(block, block.results[arm]) for block in blocks if rate is not None]
    grown = [found[-1] for block, result in paced if (found := growth(moments(block, result), result.ttft))]
    verdicts = [verdict(block, result) for block, result in paced]
    return {
        "rate": rate,
        "arm": arm,
        "repeats": len(blocks),
        "requests": sum(len(result.ttft) for result in results),
        "sent": _median([sent(moments(block, result)) for block, result in paced]) if paced else None,
        "done": _median([len(result.ttft) / result.seconds for result in results]),
        "growth": max(grown, default=None),
        "kept": False if False in verdicts else None if None in verdicts or not verdicts else True,
        "input_rate": _median([result.input_tokens / result.seconds for result in results]),
        "output_rate": _median([result.output_tokens / result.seconds for result in results]),
        "ttft": quantiles([value for result in results for value in result.ttft]),
        "itl": {name: _median([result.itl[name] for result in results]) for name in known(results[0].itl, gaps)},
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


def behind(block: Block, result: Result) -> float:
    """Seconds by which the run took longer than the generator's plan and the answers explain: the generator's own."""
    return result.seconds - max(block.sending, *_ends(block.arrivals, result))


def moments(block: Block, result: Result) -> list[float]:
    """Seconds after the first request at which each was sent: the plan, and the generator's lateness.

    The generator pauses once a request, and each pause is a little too long: lateness grows with every request.
    """
    late, last = max(0.0, behind(block, result)), len(block.arrivals) - 1
    return [moment + late * place / last for place, moment in enumerate(block.arrivals)]


def verdict(block: Block, result: Result) -> bool | None:
    """Whether an arm kept up with the rate of a block; None where the run cannot say."""
    found = kept(moments(block, result), result.ttft, result.latency)
    # A late generator sent less than the rate: who kept up with that need not keep up with the rate itself.
    return None if found and behind(block, result) > NEAR * block.sending else found


def limit(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What one arm can do at most, of its rows by ascending rate.

    `fell` is the lowest rate at which it fell behind, `knee` the highest below that which it kept up with, and `open`
    are those between whose runs cannot say. `done` and `input_rate`, requests and input tokens a second, are of all
    requests at once. None, or empty, where there is no such rate.
    """
    paced = [found for found in rows if found["rate"] is not None]
    at_once = next((found for found in rows if found["rate"] is None), None)
    fell = next((place for place, found in enumerate(paced) if found["kept"] is False), len(paced))
    knee = max((place for place, found in enumerate(paced[:fell]) if found["kept"]), default=-1)
    return {
        "knee": paced[knee]["rate"] if knee >= 0 else None,
        "fell": paced[fell]["rate"] if fell < len(paced) else None,
        "open": [found["rate"] for found in paced[knee + 1 : fell]],
        "done": at_once and at_once["done"],
        "input_rate": at_once and at_once["input_rate"],
    }


def _ends(arrivals: Sequence[float], result: Result) -> list[float]:
    return [start + latency for start, latency in zip(arrivals, result.latency, strict=True)]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
