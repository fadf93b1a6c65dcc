"""Scores of a whole test set, such as F1 and BLEU: a number of all items at once, which no item has a part of.

In an arm's process, where the task's own aggregation is at hand, it is computed on items drawn anew; every arm draws
the same ones, so that two arms' draws pair. An aggregation that is not lm-eval's is resampled only where it depends on
the items' shares alone, that is where all items taken twice, backwards first, give the same number: one that counts
pairs, goes by the items' order or draws lots does not.
"""

import hashlib
import math
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sage_eval.compare.metrics import BYPASS, RULES
from sage_eval.statistics.resampling import bootstrap, resampled
from sage_eval.store.comparison import TaskComparison

SECONDS = 300.0
"""For all metrics of an arm; one draw of TER takes five for a thousand sentences."""
LEAST = 40
"""Fewer draws know the standard error to no better than an eighth."""


def draw(
    tasks: Mapping[str, Any],
    samples: Mapping[str, Iterable[Mapping[str, Any]]],
    described: Any,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """By task, metric and filter: number and digest of the items, and the score's draws; lm-eval's `samples` in order.

    `described` (`metrics.describe`) is told which metrics were drawn, and why others could not be: those that come to
    more than their part of what is left of `seconds`, for one.
    """
    items: dict[tuple[str, str, str], list[tuple[int, Any]]] = {}
    for task, rows in samples.items():
        for row in rows:
            for metric in row["metrics"]:
                if _is_corpus(described[task].get(metric)):
                    items.setdefault((task, metric, row["filter"]), []).append((row["doc_id"], row[metric]))
    found: dict[str, Any] = {}
    ends = time.monotonic() + seconds
    for done, ((task, metric, chosen), pairs) in enumerate(items.items()):
        numbers, values = zip(*pairs, strict=True)
        known = described[task][metric]["aggregation"] in RULES
        share = (ends - time.monotonic()) / (len(items) - done)
        try:
            draws = _draws(tasks[task].aggregation()[metric], values, f"{task} {metric} {chosen}", share, known=known)
        except Exception as error:  # whatever a task's own function raises
            why = str(error) or type(error).__name__
            described[task][metric] |= {"kind": None, "reason": f"it cannot be resampled: {why}"}
            continue
        described[task][metric]["kind"] = "resampled"
        digest = hashlib.sha256(repr(numbers).encode()).hexdigest()[:16]
        label = metric if chosen == "none" else f"{metric},{chosen}"
        found.setdefault(task, {})[label] = {"n": len(values), "items": digest, "draws": draws}
    return found


def _is_corpus(described: Mapping[str, Any] | None) -> bool:
    if described is None or described["aggregation"] == BYPASS or described.get("reason"):
        return False
    return described["aggregation"] not in RULES or described["kind"] == "resampled"


def _draws(
    function: Callable[[list[Any]], Any], values: Sequence[Any], seed: str, seconds: float, *, known: bool
) -> list[float]:
    begun = time.monotonic()
    function([*values])
    if (one := time.monotonic() - begun) * LEAST > seconds:
        raise ValueError(f"one draw takes {one:.2g} s, and there is time for {seconds:.2g} s")
    if not known and not math.isclose(function([*values[::-1], *values]), function([*values]), rel_tol=1e-6):
        raise ValueError("it depends on more than the shares of its items")
    draws = resampled(function, values, seed=zlib.crc32(seed.encode()), seconds=seconds)
    if len(draws) < LEAST:
        raise ValueError(f"{len(draws)} draws took {seconds:.2g} s")
    if not all(map(math.isfinite, draws)):
        raise ValueError("it is NaN for some draws")
    return draws


def row(
    name: str,
    metric: str,
    arms: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    *,
    group: bool,
    parent: str | None,
) -> TaskComparison:
    """The row of a score in the lm-eval results of two `arms`; a group's is the mean of its `tasks`, as lm-eval has it.

    Raises ValueError where it cannot be paired.
    """
    parts = [[arm.get("resampled", {}).get(task, {}).get(metric) for task in tasks] for arm in arms]
    if not all(part and other and part["items"] == other["items"] for part, other in zip(*parts, strict=True)):
        raise ValueError("an arm has no draws of it, or of other items")
    # Of a group's tasks, lm-eval takes those that have the metric.
    key = metric if "," in metric else f"{metric},none"
    values = [float(arm["results"][name][key]) for arm in arms]
    if not all(map(math.isfinite, values)):
        raise ValueError("lm-eval's score is NaN")
    sizes = [part["n"] for part in parts[0]]
    own = [arms[0]["results"][task][key] for task in tasks]
    for weights in (sizes, [1] * len(sizes)):
        if math.isclose(_mean(own, weights), values[0], rel_tol=1e-6, abs_tol=1e-9):
            break
    else:
        raise ValueError(f"lm-eval's score ({values[0]:.6g}) is not an average over its tasks")
    least = min(len(part["draws"]) for side in parts for part in side)
    base, cand = ([_mean([part["draws"][i] for part in side], weights) for i in range(least)] for side in parts)
    n = sum(sizes)
    return TaskComparison(
        task=name,
        group=group,
        parent=parent,
        metric=metric,
        kind="resampled",
        higher_is_better=True,
        n=n,
        baseline=bootstrap(values[0], base, n),
        candidate=bootstrap(values[1], cand, n),
        difference=bootstrap(values[1] - values[0], [b - a for a, b in zip(base, cand, strict=True)], n),
        flips=None,
        changed=None,
        notes=[],
        identical=values[0] == values[1] and base == cand,
    )


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
