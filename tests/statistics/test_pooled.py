"""The pooled permutation test: its level, its power, and what it leaves whole."""

import numpy as np
import pytest

from sage_eval.statistics.pooled import pooled, unit_totals


def test_arms_that_are_alike_are_called_different_in_one_run_of_twenty():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(200):
        skewed = rng.choice([-1, 1], 40) * np.exp(rng.normal(0, 1.5, 40))
        flips = rng.choice([-1.0, 0, 1], 300, p=[0.02, 0.96, 0.02])
        p.append(pooled({"text": skewed, "choice": flips}).p)
    assert sum(x < 0.05 for x in p) <= 18  # the 99 % limit of a binomial count at 5 %


def test_small_losses_in_every_task_are_found_together():
    rng = np.random.default_rng(1)
    tasks = {f"t{i}": rng.normal(0.25, 1, 60) for i in range(5)}
    together = pooled(tasks)
    assert together.z > 0
    assert together.p < 0.05
    assert together.p < min(pooled({name: losses}).p for name, losses in tasks.items())


def test_documents_are_kept_whole():
    """A hundred windows of one document that all lost are one coin toss."""
    losses = unit_totals(np.ones(100), ["d"] * 100)
    assert losses.tolist() == [100.0]
    assert pooled({"text": losses}).p == 1.0


def test_few_units_have_the_exact_p():
    assert pooled({"t": np.ones(6)}).p == pytest.approx(2 / 64, abs=0.005)


def test_a_task_without_a_difference_says_nothing():
    assert pooled({"t": np.zeros(50)}) is None
    assert set(pooled({"t": np.zeros(50), "u": np.ones(6)}).by_task) == {"u"}


def test_many_flips_are_as_exact_as_mcnemar():
    from sage_eval.statistics.proportions import mcnemar_exact

    losses = np.r_[np.ones(330), -np.ones(270), np.zeros(9_000)]
    assert pooled({"choice": losses}).p == pytest.approx(mcnemar_exact(330, 270), abs=0.01)
