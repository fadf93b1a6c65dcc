"""Whether a server keeps up, told by simulated queues whose load is known."""

import numpy as np
import pytest

from sage_eval.measure.rate.summary import GROWTH, growth, kept_up

RUNS = 100


def queue(load, seed, requests=128):
    """Arrivals, and the seconds to each answer, of a server that takes 1 s for each request: an M/D/1 queue.

    The gaps come to `load` requests a second, as those of a `Load` that is `near` do.
    """
    arrivals = np.concatenate([[0.0], np.cumsum(np.random.default_rng(seed).exponential(size=requests - 1))])
    arrivals *= (requests - 1) / load / arrivals[-1]
    free, answered = 0.0, []
    for moment in arrivals:
        free = max(free, moment) + 1.0
        answered.append(free - moment)
    return arrivals.tolist(), answered


def verdicts(load):
    runs = [queue(load, seed) for seed in range(RUNS)]
    return [kept_up(arrivals, answered, answered) for arrivals, answered in runs]


def test_an_underloaded_server_keeps_up_and_never_falls_behind():
    found = verdicts(0.8)
    assert found.count(True) >= 0.9 * RUNS
    assert False not in found


def test_an_overloaded_server_falls_behind_and_never_keeps_up():
    assert set(verdicts(1.5)) == {False}
    assert True not in verdicts(1.25)


def test_a_queue_that_is_only_near_its_limit_is_hardly_ever_said_to_fall_behind():
    assert verdicts(0.9).count(False) <= 0.03 * RUNS


@pytest.mark.parametrize("overload", [0.1, 0.5])
def test_without_chance_waits_grow_by_the_overload(overload):
    """Requests at even gaps: each waits for `overload / (1 + overload)` s longer than the one before."""
    arrivals = np.arange(90) / (1 + overload)
    answered = 1.0 + np.arange(90) * (1 - 1 / (1 + overload))
    assert growth(arrivals, answered) == pytest.approx((overload, overload))


def test_a_slow_beginning_is_no_falling_behind():
    arrivals = [float(second) for second in range(60)]
    assert kept_up(arrivals, [3.0] * 5 + [0.5] * 55, [0.6] * 60) is True


def test_a_server_whose_waits_stop_growing_keeps_up():
    arrivals = [float(second) for second in range(60)]
    ttft = [0.5 + second / 10 for second in range(30)] + [3.5] * 30
    assert kept_up(arrivals, ttft, [4.0] * 60) is True


@pytest.mark.parametrize(("slope", "found"), [(0.8 * GROWTH, True), (1.2 * GROWTH, None)])
def test_the_tolerance_is_what_waits_may_grow_by(slope, found):
    arrivals = [float(second) for second in range(60)]
    assert kept_up(arrivals, [0.5 + slope * second for second in arrivals], [1.0] * 60) is found


@pytest.mark.parametrize(("latency", "found"), [(5.9, True), (6.1, None)])
def test_a_run_of_few_latencies_is_too_short_to_say(latency, found):
    arrivals = [float(second) for second in range(60)]  # 59 s
    assert kept_up(arrivals, [0.5] * 60, [latency] * 60) is found


def test_two_requests_say_nothing():
    assert growth([0.0, 1.0], [0.1, 0.2]) is None
    assert kept_up([0.0, 1.0], [0.1, 0.2], [0.1, 0.2]) is None
