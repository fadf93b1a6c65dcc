"""One task through one lm-eval model, timed by phase. Runs in a worker's process."""

import time
from typing import Any

from sage_eval.errors import DataError, EngineError
from sage_eval.measure.scoring import models
from sage_eval.measure.scoring.models import Stopwatch
from sage_eval.measure.scoring.rows import Answers, Seconds, Task

KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
METRICS = ("word_perplexity,none", "token_perplexity,none", "acc,none")


def run_task(
    lm: Any, stopwatch: Stopwatch, task: str, limit: int, tokenizer: str, task_args: dict[str, Any], seed: int
) -> Task:
    """Answer `limit` documents of each subject of `task`.

    Raises `DataError` where there is nothing to answer, and `EngineError` where the task has no score to be compared.
    """
    from lm_eval import simple_evaluate

    from sage_eval.compare.tasks import load_tasks

    began = time.perf_counter()
    manager, _ = load_tasks([task], tokenizer, task_args)
    loaded = time.perf_counter()
    stopwatch.reset()
    calls, before = Stopwatch(), models.tokens(lm)
    for kind in KINDS:
        setattr(lm, kind, calls.over(getattr(lm, kind)))
    try:
        results = simple_evaluate(
            model=lm, tasks=[task], limit=limit, task_manager=manager, log_samples=True, bootstrap_iters=0,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
        )  # fmt: skip
    finally:
        for kind in KINDS:
            delattr(lm, kind)  # the class's own methods show through again
    ended = time.perf_counter()
    called, returned = calls.first, calls.last
    if called is None or returned is None or stopwatch.first is None or stopwatch.last is None:
        raise DataError(f"{task}: no request was made; the data set has no items for these settings")
    scores = {**results["results"], **results.get("groups", {})}
    found = scores.get(task) or next(iter(scores.values()))  # a task file has its own name inside
    metric = next((name for name in METRICS if name in found), None)
    if metric is None:
        raise EngineError(f"{task} has none of the scores {', '.join(METRICS)}")
    answers = _answers(results["samples"])
    return Task(
        items=len(answers),
        requests=sum(len(sample["resps"]) for rows in results["samples"].values() for sample in rows),
        seconds=Seconds(
            load=loaded - began,
            build=called - loaded,
            request=returned - called,
            tokenise=stopwatch.first - called,
            scoring=stopwatch.last - stopwatch.first,
            after=returned - stopwatch.last,
            metrics=ended - returned,
        ),
        score=float(found[metric]),
        metric=metric.partition(",")[0],
        tokens={name: count - before.get(name, 0) for name, count in models.tokens(lm).items()},
        answers=answers,
    )


def _answers(samples: dict[str, list[dict[str, Any]]]) -> Answers:
    """By document of all subjects."""
    return {
        f"{subject}/{sample['doc_id']}": _value([response[0] for response in sample["resps"]])
        for subject, rows in sorted(samples.items())
        for sample in rows
    }


def _value(responses: list[Any]) -> list[float] | str:
    """Log-probabilities, of each choice or of one text, or the generated text."""
    if isinstance(first := responses[0], str):
        return first
    return [float(response[0] if isinstance(response, tuple | list) else response) for response in responses]
