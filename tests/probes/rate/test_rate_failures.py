"""Servers and load generators that fail, hang or end: stand-ins, no engine."""

import pytest

from sage_eval.errors import SageEvalError
from sage_eval.probes.rate.client import GeneratorError
from sage_eval.probes.rate.record import read
from tests.probes.rate.stand_ins import Bench, shown


def test_an_arm_whose_requests_fail_is_noted_and_the_others_go_on(work):
    bench = Bench(broken={"b": 2.0, "c": "start"})
    found = work(bench, repeats=1)
    assert found.arms["b"].error == "arm b: 1 of 4 requests failed"
    assert found.arms["c"].error == "it does not start"
    assert shown(found) == [("a", 2.0, 0), ("a", None, 0)]


def test_an_arm_that_got_a_smaller_cache_is_not_compared(work):
    found = work(Bench(broken={"b": "small cache"}), arms="a,b", repeats=1)
    assert "holds 100 tokens where 11,264 were asked for" in found.arms["b"].error
    assert [names for names, *_ in shown(found)] == ["a", "a"]


def test_without_a_baseline_there_is_nothing_to_compare(work):
    with pytest.raises(SageEvalError, match="the baseline did not come up: it does not start"):
        work(Bench(broken={"a": "start"}), arms="a,b")


def test_when_the_load_generator_ends_no_arm_has_failed_and_what_was_finished_is_kept(work, tmp_path):
    with pytest.raises(GeneratorError, match="the load generator ended"):
        work(Bench(deadly=None), arms="a,b", rates=(2.0,), running=4)  # within the warm-up
    assert {arm.error for arm in read(tmp_path / "rate.json").arms.values()} == {None}
    with pytest.raises(GeneratorError):
        work(Bench(deadly=3.0), arms="a,b", rates=(2.0, 3.0))
    found = read(tmp_path / "rate.json")
    assert shown(found) == [("ab", 2.0, 0)]
    assert {arm.error for arm in found.arms.values()} == {None}


def test_a_server_that_hangs_is_noted_and_the_others_get_a_new_load_generator(work):
    """The old one may still answer for the server that hung."""
    bench = Bench(broken={"b": "hangs"})
    found = work(bench, repeats=1)
    assert found.arms["b"].error == "arm b: not answered in time"
    assert bench.generators == 2
    assert [set(names) for names, *_ in shown(found)] == [{"a", "c"}] * 2


def test_servers_of_several_groups_have_one_load_generator(work):
    bench = Bench()
    work(bench, resident=1, repeats=1)
    assert bench.generators == 1


def test_a_run_is_waited_for_as_long_as_the_servers_speed_says(work):
    """4 requests took 5 s to warm up, so 8 take 10 s, and three times that is still no hanging."""
    bench = Bench()
    work(bench, arms="a", rates=(None,), requests=8, running=4, repeats=1)
    assert bench.patience == [600, 630]


def test_an_arm_that_failed_once_is_started_again_and_its_error_forgotten(work):
    assert work(Bench(broken={"b": "start"}), arms="a,b", repeats=1).arms["b"].error
    assert work(Bench(), arms="a,b", repeats=1).arms["b"].error is None
