"""What a metric of a task is: how lm-eval makes one number of its items, and so how two arms' numbers are compared.

That comes from the name of the task's own aggregation and never from the shape of a value: two numbers are
(log-likelihood, weight) of a text under `weighted_perplexity` and (answer, prediction) under `f1`. One line of `RULES`
is one aggregation; one that is not there is resampled where it can be (`compare.corpus`), and listed where it cannot.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sage_eval.store.comparison import MetricKind
from sage_eval.store.files import plain
from sage_eval.store.samples import Score, scored


@dataclass(frozen=True)
class Rule:
    """How arms are compared (`TaskComparison.kind`), and what is kept of an item's value; None: a missing item."""

    kind: MetricKind
    keep: Callable[[Any], Score | None]


def _number(value: Any) -> Score | None:
    # `plain` spells NaN and infinities out: a score that could not be computed is no score.
    found = plain(value)
    return found if isinstance(found, int | float) else None


def _pair(value: Any) -> Score | None:
    """(log-likelihood, weight); of the windows of a text the third is their document, which the sample has already."""
    total, weight = map(_number, list(value)[:2])
    return (total, weight) if isinstance(total, int | float) and isinstance(weight, int | float) else None


def _single(value: Any) -> Score | None:
    found = _number(value)
    return (found, 1) if isinstance(found, int | float) else None


def _several(value: Any) -> Score | None:
    """(sum, number) of an item's values: of the instructions of a prompt, of the repeats of a question."""
    found = [number for number in map(_number, value) if isinstance(number, int | float)]
    return (math.fsum(found), len(found)) if found else None


def _asked(value: Any) -> Score | None:
    """RULER gives each item a score for every length, −1 for those it does not have."""
    return None if value == -1 else _number(value)


BYPASS = "bypass"
"""lm-eval's word for no metric."""

CORPUS = ("median", "f1", "matthews_corrcoef", "bleu", "chrf", "chrf++", "ter", "brier_score")
"""Numbers of all items at once: see `compare.corpus`."""

RULES: Mapping[str, Rule] = {
    "mean": Rule("mean", _number),
    "nanmean": Rule("mean", _number),
    "perplexity": Rule("log-perplexity", _single),
    "weighted_perplexity": Rule("log-perplexity", _pair),
    "bits_per_byte": Rule("bits", _pair),
    "wikitext2.token_perplexity": Rule("log-perplexity", _pair),
    "common_utils.aggregate_metrics": Rule("mean", _asked),
    "utils.agg_inst_level_acc": Rule("pooled", _several),
    **dict.fromkeys(CORPUS, Rule("resampled", lambda _value: None)),
}
"""By aggregation: lm-eval's own by their names, a task's by `module.function`."""


def describe(tasks: Mapping[str, Any], samples: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, Any]:
    """By task and metric: the name of lm-eval's aggregation, the kind of its rule (None: no rule), and which way is up.

    `tasks` are lm-eval's, `samples` its records: a metric that only `process_results` names is averaged by lm-eval.
    """
    found: dict[str, Any] = {}
    for task, rows in samples.items():
        aggregations, better = tasks[task].aggregation(), tasks[task].higher_is_better()
        found[task] = {}
        for metric in dict.fromkeys(name for row in rows for name in scored(row["metrics"])):
            name = name_of(aggregations[metric]) if metric in aggregations else "mean"
            kind = RULES[name].kind if name in RULES else None
            found[task][metric] = {"aggregation": name, "kind": kind, "higher_is_better": better.get(metric)}
    return found


def name_of(aggregation: Callable[..., Any]) -> str:
    """As lm-eval's registry has it, else `module.function`: where a task's file lies is nobody's business."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    for name, function in AGGREGATION_REGISTRY.items():
        if function is aggregation:
            return str(name)
    module = re.split(r"[./\\]", getattr(aggregation, "__module__", "") or "")[-1]
    return f"{module}.{getattr(aggregation, '__name__', type(aggregation).__name__)}"


def bypassed(results: Mapping[str, Any], task: str) -> bool:
    """Whether lm-eval was told to compute no metric of `task`."""
    described = results.get("metrics", {})
    # A multiple-choice task then has none at all.
    return task in described and all(metric["aggregation"] == BYPASS for metric in described[task].values())


def keeper(described: Mapping[str, Any]) -> Callable[[str, str, Any], Score | None]:
    """What `store.samples.from_lm_eval` keeps of a (task, metric, value), with what `describe` found."""

    def keep(task: str, metric: str, value: Any) -> Score | None:
        rule = RULES.get(described[task][metric]["aggregation"])
        return rule.keep(value) if rule else None

    return keep


def sizes(tasks: Mapping[str, Any]) -> Callable[[str, Mapping[str, Any]], dict[str, list[int]]]:
    """What lm-eval divides a choice's log-probability by, by task and sample: its characters or its bytes."""

    def found(name: str, row: Mapping[str, Any]) -> dict[str, list[int]]:
        task, metrics = tasks[name], {"acc_norm", "acc_bytes"} & set(row["metrics"])
        if not metrics or task.OUTPUT_TYPE != "multiple_choice" or callable(task.get_config("process_results")):
            return {}
        choices = task.doc_to_choice(row["doc"])
        lengths = {"acc_norm": [len(text) for text in choices], "acc_bytes": [len(text.encode()) for text in choices]}
        return {metric: lengths[metric] for metric in sorted(metrics)}

    return found


def kind(results: Mapping[str, Any], task: str, metric: str, score: Score | None) -> MetricKind | None:
    """The kind of `metric` in lm-eval's `results`; runs that did not describe it kept pairs for perplexities alone."""
    if "metrics" in results:
        found: MetricKind | None = results["metrics"].get(task, {}).get(metric, {}).get("kind")
        return found
    if not isinstance(score, tuple):
        return "mean"
    if metric.startswith("bits"):
        return "bits"
    return "log-perplexity" if metric.endswith("perplexity") else None


def reason(results: Mapping[str, Any], tasks: Iterable[str], metric: str) -> str:
    """Why a metric for which lm-eval has a score has no row; "" where none was asked for."""
    described = [results.get("metrics", {}).get(task, {}).get(metric) for task in tasks]
    names = {found["aggregation"] for found in described if found}
    if not names:
        return "what its items are was not kept"
    if names in ({"common_utils.aggregate_metrics"}, {BYPASS}):
        return ""
    if why := next((found["reason"] for found in described if found and found.get("reason")), None):
        return f"{', '.join(sorted(names))}: {why}"
    if unknown := sorted(names - RULES.keys()):
        return f"there is no paired difference of {', '.join(unknown)}"
    return "no item has a value in both arms"
