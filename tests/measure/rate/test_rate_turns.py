"""Warm-ups, rehearsals, turns and failures, with worker processes that stand in for servers: no engine."""

import json

import pytest

from sage_eval.arms.turns import SharedError
from sage_eval.errors import SageEvalError
from sage_eval.measure.rate import traffic
from sage_eval.measure.rate.instrument import Rate
from sage_eval.measure.rate.plan import RatePlan
from sage_eval.measure.rate.summary import Run
from sage_eval.store import record as records


class StandIns(Rate):
    worker = "tests.measure.rate.standins:Server"
    generator = "tests.measure.rate.standins:LoadGenerator"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """`work(arms, broken, **plan)`: the record, and what was sent, after measuring; 4 requests at each rate."""
    sent, path = tmp_path / "sent", tmp_path / "run" / "rate.json"
    monkeypatch.setenv("SENT", str(sent))

    def run(arms="a,b", broken=None, **given):
        monkeypatch.setenv("BROKEN", json.dumps(broken or {}))
        sent.write_text("")
        values = {"rates": "2,inf", "requests": 4, "repeats": 1, "resident": 3, "rehearsal": 0.0, **given}
        plan = RatePlan(shape="llama-3.1-8b", arms=arms, output=path.parent, **values)
        try:
            StandIns().measure(plan)
        finally:
            run.sent = [tuple(json.loads(line)) for line in sent.read_text().splitlines()]
        return records.read(Run, path, "rate")

    return run


def cells(record):
    return [(row.arm, row.cell, row.block) for row in record.rows]


def test_arms_take_turns_with_the_same_requests_and_another_begins_each_time(work):
    record = work(repeats=2)
    measured = [line for line in work.sent if len(line) == 4][2:]  # before are warm-ups
    assert [arm for arm, *_ in measured] == ["a", "b", "b", "a", "b", "a", "a", "b"]
    assert all(one[1:] == other[1:] for one, other in zip(measured[::2], measured[1::2], strict=True))
    assert [row.block for row in record.rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {row.repeat: row.seed for row in record.rows if row.rate}.keys() == {0, 1}


def test_servers_are_warmed_up_then_rehearse_each_rate_once(work):
    work(rates="2,inf", rehearsal=1.0, running=1, repeats=2)
    begin = [line[:2] for line in work.sent[:5]]
    assert begin == [("generator", "start"), ("a", None), ("a", "freeze"), ("b", None), ("b", "freeze")]
    sent = [(arm, rate, requests) for arm, rate, _, requests in work.sent[5:]]
    assert sent[:4] == [("a", 2.0, 2), ("b", 2.0, 2), ("a", 2.0, 4), ("b", 2.0, 4)]
    assert sent[4:8] == [("a", None, 2), ("b", None, 2), ("b", None, 4), ("a", None, 4)]
    assert {requests for *_, requests in sent[8:]} == {4}  # the second repeat


def test_arms_one_at_a_time_share_no_block_and_one_load_generator(work):
    record = work(rates="2", resident=1)
    assert cells(record) == [("a", "2/s, repeat 1", 0), ("b", "2/s, repeat 1", 1)]
    assert work.sent.count(("generator", "start")) == 1


def test_arm_whose_requests_fail_is_noted_and_the_others_go_on(work):
    record = work("a,b,c", {"b": 4, "c": "start"}, running=3)
    assert record.arms["b"].error.startswith("arm b: 2/s: 1 of 4 requests failed (its log: ")
    assert "it does not start" in record.arms["c"].error
    assert [arm for arm, *_ in cells(record)] == ["a", "a"]


def test_arm_with_a_smaller_cache_is_not_compared(work):
    record = work(broken={"b": "small cache"})
    assert "holds 100 tokens where 11,264 were asked for" in record.arms["b"].error
    assert [arm for arm, *_ in cells(record)] == ["a", "a"]


def test_baseline_that_fails_its_warm_up_ends_the_command(work):
    with pytest.raises(SageEvalError, match="the baseline did not start: arm a: all at once: 1 of 4 requests"):
        work(broken={"a": 4})


def test_load_generator_that_ends_is_no_arms_failure_and_what_was_finished_is_kept(work, tmp_path):
    with pytest.raises(SharedError, match=r"SGLang's load generator ended: .*bench_serving\.log"):
        work(rates="1,2", requests=8, seconds=4.0, running=3, broken={"generator": 8})
    record = records.read(Run, tmp_path / "run" / "rate.json", "rate")
    assert cells(record) == [("a", "1/s, repeat 1", 0), ("b", "1/s, repeat 1", 0)]
    assert {arm.error for arm in record.arms.values()} == {None}


def test_server_that_hangs_is_noted_and_the_others_get_a_new_load_generator(work, monkeypatch):
    """The old one may still answer for the server that hung."""
    monkeypatch.setattr(traffic, "ALLOWANCE", 2.0)
    record = work("a,b,c", {"b": "hangs"}, rates="inf")
    assert record.arms["b"].error.startswith("arm b: 4 requests, all at once, were not answered within 2 s")
    assert work.sent.count(("generator", "start")) == 2
    assert [arm for arm, *_ in cells(record)] == ["a", "c"]


@pytest.mark.parametrize(("total", "arms"), [(100.0, []), (300.0, ["a"])])
def test_rate_that_does_not_fit_into_the_time_is_left_for_later(work, total, arms):
    """4 requests took 5 s to warm up, so 160 of all at once take 200 s."""
    record = work("a", rates="inf", requests=160, running=4, total=total)
    assert [arm for arm, *_ in cells(record)] == arms
