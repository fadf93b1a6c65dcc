"""One task through one lm-eval model, timed by phase. Runs in a worker's process."""

import time
from collections.abc import Callable
from typing import Any

from sage_eval.errors import DataError, EngineError
from sage_eval.probes.scoring import columns
from sage_eval.probes.scoring.record import Seconds
from sage_eval.probes.scoring.stopwatch import Stopwatch

KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
METRICS = ("word_perplexity,none", "token_perplexity,none", "acc,none")

WARM_UP = {True: 33, False: 2}
"""Texts before the first task, with and without a GPU."""


def warm_up(lm: Any, texts: int) -> float:
    """Seconds taken by `texts` short texts, one after a first one alone: kernels are compiled, caches filled."""
    from lm_eval.api.instance import Instance

    start = time.perf_counter()
    words = list(columns.each(texts))
    for batch in (words[:1], words[1:]):
        if batch:
            lm.loglikelihood([Instance("loglikelihood", {}, (text, " A"), i) for i, text in enumerate(batch)])
    return time.perf_counter() - start


def run_task(
    lm: Any, stopwatch: Stopwatch, task: str, limit: int, model: str, task_args: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Answer `limit` documents of each subject of `task`: fields of `record.Task`, and `answers`, one a document.

    An answer is [key, value]: log-probabilities of its choices, of its text, or the text generated.
    """
    from lm_eval import simple_evaluate

    from sage_eval.runs.tasks import load_tasks

    began = time.perf_counter()
    manager, _ = load_tasks([task], model, task_args)
    loaded = time.perf_counter()
    stopwatch.reset()
    calls = _Calls(lm)
    before = columns.tokens(lm)
    try:
        results = simple_evaluate(
            model=lm, tasks=[task], limit=limit, task_manager=manager, log_samples=True, bootstrap_iters=0,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
        )  # fmt: skip
    finally:
        calls.restore()
    ended = time.perf_counter()
    if not calls.times or stopwatch.first is None or stopwatch.last is None:
        raise DataError(f"{task}: no request was made; the data set has no items for these settings")
    (called, returned) = calls.times[0][0], calls.times[-1][1]
    answers = sorted(_answers(results["samples"]))
    scores = {**results["results"], **results.get("groups", {})}
    found = scores.get(task) or next(iter(scores.values()))  # a task file has its own name inside
    metric = next((name for name in METRICS if name in found), None)
    if metric is None:
        raise EngineError(f"{task} has none of the scores {', '.join(METRICS)}")
    seconds = Seconds(
        load=loaded - began,
        build=called - loaded,
        request=returned - called,
        tokenise=stopwatch.first - called,
        scoring=stopwatch.seconds,
        after=returned - stopwatch.last,
        metrics=ended - returned,
    )
    return {
        "items": len(answers),
        "requests": calls.requests,
        "seconds": seconds.model_dump(),
        "score": float(found[metric]),
        "metric": metric.partition(",")[0],
        "tokens": {name: count - before[name] for name, count in columns.tokens(lm).items()},
        "answers": answers,
    }


class _Calls:
    """Notes when lm-eval calls the model and when that returns."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        self.times: list[tuple[float, float]] = []
        self.requests = 0
        for kind in KINDS:
            setattr(lm, kind, self._noting(getattr(lm, kind)))

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(requests: list[Any], *args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            answers = function(requests, *args, **options)
            self.times.append((start, time.perf_counter()))
            self.requests += len(requests)
            return answers

        return noted

    def restore(self) -> None:
        """Take the notes off again: the class's own methods show through."""
        for kind in KINDS:
            delattr(self._lm, kind)


def _answers(samples: dict[str, list[dict[str, Any]]]) -> list[tuple[str, Any]]:
    """(which document, its log-probabilities or its text), of all subjects."""
    return [
        (f"{subject}/{sample['doc_id']}", _value([response[0] for response in sample["resps"]]))
        for subject, rows in samples.items()
        for sample in rows
    ]


def _value(responses: list[Any]) -> Any:
    first = responses[0]
    if isinstance(first, str):
        return first
    return [float(response[0] if isinstance(response, tuple | list) else response) for response in responses]
