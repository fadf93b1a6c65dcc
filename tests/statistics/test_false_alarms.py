"""400 comparisons of an arm with itself but for rounding, judged as a run is: how often is there an alarm?

An alarm is any task or the run called better or worse. Holm's correction promises at most 5 %; 31 of 400 is the 99 %
limit of a binomial count at 5 %. The data have the shape of a full run: all of MMLU by subject with 1 % of answers
flipping, WikiText-2 by article, 600 retrieval prompts. A flip is as often a gain as a loss, a perplexity moves as often
up as down, and whole articles move together.
"""

import numpy as np
import pytest

from sage_eval.compare.verdicts import decide
from sage_eval.statistics.paired import flips, mean, paired_difference, paired_ratio_difference, ratio_of_sums
from sage_eval.store.comparison import ArmPair, TaskComparison

pytestmark = pytest.mark.slow

RUNS, LIMIT = 400, 31
QUESTIONS, SUBJECTS, ARTICLES, PROMPTS = 14_042, 57, 62, 600
EQUAL = {"group": False, "parent": None, "notes": [], "changed": None}


def flipped(rng, right, rate):
    """The answers with a share `rate` of them turned over, as many either way on average."""
    chance = np.where(right, rate / (2 * right.mean()), rate / (2 * (1 - right.mean())))
    return np.where(rng.random(right.size) < chance, 1 - right, right)


def choice(rng, task, base, rate, strata=None, **cells):
    found = flipped(rng, base, rate)
    return TaskComparison(
        task=task, metric="acc", kind="mean", higher_is_better=True, n=base.size, baseline=mean(base, strata=strata),
        candidate=mean(found, strata=strata), difference=paired_difference(base, found, strata=strata),
        flips=flips(base, found), **EQUAL, **cells,
    )  # fmt: skip


def perplexity(rng, base, words):
    moved = base + words * rng.normal(0, 0.002, base.size) * rng.choice([1, 3], base.size)
    return TaskComparison(
        task="wikitext", metric="word_perplexity", kind="log-perplexity", higher_is_better=False, n=base.size,
        baseline=ratio_of_sums(base, words), candidate=ratio_of_sums(moved, words),
        difference=paired_ratio_difference(base, moved, words), flips=None, **EQUAL,
    )  # fmt: skip


def test_equal_arms_alarm_in_at_most_31_of_400_comparisons():
    rng = np.random.default_rng(20240501)
    subject = np.sort(rng.integers(0, SUBJECTS, QUESTIONS))
    questions = (rng.random(QUESTIONS) < rng.uniform(0.4, 0.9, SUBJECTS)[subject]).astype(float)
    words = rng.integers(400, 8_000, ARTICLES).astype(float)
    losses = words * rng.normal(3.4, 0.3, ARTICLES)
    prompts = (rng.random(PROMPTS) < 0.9).astype(float)
    alarms = significant = 0
    for _ in range(RUNS):
        rows = [
            choice(rng, "mmlu", questions, 0.01, strata=subject),
            perplexity(rng, losses, words),
            choice(rng, "retrieval", prompts, 0.03),
        ]
        pair = ArmPair(baseline="baseline", candidate="candidate", tasks=rows, skipped=[])
        verdict = decide([pair], {}, {}, (), {})
        alarms += verdict.verdict in ("worse", "better") or any(t.verdict in ("worse", "better") for t in verdict.tasks)
        significant += any(task.significant for task in verdict.tasks)
    assert alarms <= LIMIT
    assert 0 < significant <= LIMIT  # the tests behind the verdicts hold it too, and do fire
