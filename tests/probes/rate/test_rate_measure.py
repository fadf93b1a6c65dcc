"""Turns, failures and resumption, with servers whose times are given: no engine."""

import time

import pytest

from sage_eval.errors import EngineError, SageEvalError, UsageError
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.rate.client import GeneratorError
from sage_eval.probes.rate.measure import Measurement
from sage_eval.probes.rate.plan import make_plan
from sage_eval.probes.rate.record import Record, Result, read
from sage_eval.probes.shape import describe, write_shape

RATES = (2.0, None)


class Bench:
    """Stands in for servers and the load generator, and notes what is sent where.

    `broken` maps an arm to "start", "small cache", or to the rate at which its requests fail; at the rate `deadly` it
    is the generator that ends.
    """

    def __init__(self, broken=None, deadly=0.0):
        self.broken, self.deadly = broken or {}, deadly
        self.sent, self.alive = [], []

    def start(self, name, order, logs):
        self.alive.append(name)
        return StandIn(self, name)

    def generator(self, logs, words, scratch):
        assert (words / "tokenizer.json").exists()
        self.alive.append("generator")
        return StandIn(self, "generator")


class StandIn:
    def __init__(self, bench, name):
        self.bench, self.name, self.url = bench, name, name

    def ready(self):
        if self.bench.broken.get(self.name) == "start":
            raise EngineError("it does not start")
        tokens = 100 if self.bench.broken.get(self.name) == "small cache" else 1_000_000
        engine = {"chunked_prefill_size": 2048, "max_total_num_tokens": tokens}
        return {"engine": engine, "command": "python -m sglang.launch_server"}, 1.0

    def run(self, load, url):
        if load.rate == self.bench.deadly:
            raise GeneratorError("the load generator ended")
        if url in self.bench.broken and self.bench.broken[url] == load.rate:
            raise EngineError("1 of 4 requests failed")
        self.bench.sent.append((url, load.rate, load.seed, load.requests))
        times = [0.1] * load.requests
        return Result(seconds=5.0, input_tokens=1, output_tokens=1, ttft=times, latency=times, itl={})

    def explain(self, error):
        return EngineError(f"arm {self.name}: {error}")

    def freeze_gc(self):
        self.bench.sent.append((self.name, "freeze"))

    def coverage(self):
        return {"prefill/some": len(self.bench.sent)}

    def close(self):
        self.bench.alive.remove(self.name)


@pytest.fixture
def work(tmp_path):
    """`work(bench, **options)`: the record after measuring arms a, b and c, baseline a, 4 requests at each rate."""
    model = write_shape("llama-3.1-8b", tmp_path / "model")
    path = tmp_path / "rate.json"

    def run(bench, arms="a,b,c", **options):
        chosen = {"requests": 4, "repeats": 2, "resident": 3, "rehearsal": 0.0} | options
        clock = chosen.pop("clock", time.monotonic)
        plan = make_plan(model, parse_arms(arms), None, chosen.pop("rates", RATES), **chosen)
        empty = Record(
            created="", command="", baseline="a", model=describe(model), settings=plan.settings(), versions={}, host={},
            devices=[],
        )  # fmt: skip
        into = read(path) if path.exists() else empty
        try:
            Measurement(plan, into, path, lambda _: None, bench.start, bench.generator, clock).run()
        finally:
            assert bench.alive == []
        return read(path)

    return run


def shown(record):
    return [("".join(block.results), block.rate, block.repeat) for block in record.blocks]


def test_each_arm_begins_in_its_turn_with_the_same_requests(work):
    bench = Bench()
    found = work(bench, arms="a,b")
    assert shown(found) == [("ab", 2.0, 0), ("ba", None, 0), ("ba", 2.0, 1), ("ab", None, 1)]
    assert all(block.interleaved for block in found.blocks)
    measured = bench.sent[4:]  # before are warm-ups
    assert [url for url, *_ in measured] == ["a", "b", "b", "a", "b", "a", "a", "b"]
    assert all(one[1:] == other[1:] for one, other in zip(measured[::2], measured[1::2], strict=True))
    assert [block.seed for block in found.blocks[:2]] != [block.seed for block in found.blocks[2:]]


def test_servers_that_do_not_fit_together_are_up_beside_the_baseline(work):
    found = work(Bench(), resident=2, repeats=1)
    assert [set(names) for names, *_ in shown(found)] == [{"a", "b"}] * 2 + [{"a", "c"}] * 2


def test_one_server_at_a_time_is_not_called_taking_turns(work):
    found = work(Bench(), arms="a,b", resident=1, repeats=1)
    assert shown(found) == [("a", 2.0, 0), ("a", None, 0), ("b", 2.0, 0), ("b", None, 0)]
    assert not any(block.interleaved for block in found.blocks)


def test_what_is_finished_is_not_sent_again(work):
    first = work(Bench(), arms="a,b", repeats=1)
    again = Bench()
    work(again, arms="a,b", repeats=1)
    assert again.sent == []
    more = work(Bench(), arms="a,b", repeats=2)
    assert more.blocks[:2] == first.blocks
    assert len(more.blocks) == 4


def test_a_new_arm_is_measured_beside_the_baseline_and_the_old_one_is_left_alone(work):
    first = work(Bench(), arms="a,b", repeats=1)
    found = work(Bench(), repeats=1)
    assert found.blocks[:2] == first.blocks
    assert [set(block.results) for block in found.blocks[2:]] == [{"a", "c"}] * 2


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


def test_a_setting_that_sglang_does_not_have_ends_what_was_started(work):
    with pytest.raises(UsageError, match="context_lenght"):
        work(Bench(), model_args={"context_lenght": 1})


def test_when_the_time_is_over_no_server_is_started(work):
    work(Bench(), arms="a,b", repeats=1)
    later = Bench()
    work(later, arms="a,b", repeats=2, total=1e-9)
    assert later.sent == []


def test_a_rate_that_does_not_fit_into_the_time_is_left_for_later(work):
    bench = Bench()
    found = work(bench, arms="a,b", rates=(0.01, 100.0), requests=4, repeats=1, total=60)
    assert shown(found) == []
    assert len(bench.sent) == 4  # warm-ups


def test_coverage_goes_on_where_an_earlier_call_left_it(work):
    once = work(Bench(), arms="a", repeats=1).arms["a"].coverage["prefill/some"]
    bench = Bench()
    twice = work(bench, arms="a", repeats=2).arms["a"].coverage["prefill/some"]
    assert twice == once + len(bench.sent)


def test_each_server_rehearses_a_rate_once_before_it_is_measured_there(work):
    bench = Bench()
    work(bench, arms="a,b", rates=(2.0, None), rehearsal=1.0, running=1)
    assert [(url, *what[:1]) for url, *what in bench.sent[:4]] == [
        ("a", None),
        ("a", "freeze"),
        ("b", None),
        ("b", "freeze"),
    ]
    sent = [(url, rate, requests) for url, rate, _, requests in bench.sent[4:]]
    assert sent[:4] == [("a", 2.0, 2), ("b", 2.0, 2), ("a", 2.0, 4), ("b", 2.0, 4)]
    assert sent[4:8] == [("a", None, 2), ("b", None, 2), ("b", None, 4), ("a", None, 4)]
    assert {requests for *_, requests in sent[8:]} == {4}  # the second repeat
    assert bench.sent[4][2] not in {seed for _, _, seed, requests in bench.sent[4:] if requests == 4}


def test_a_new_server_rehearses_what_an_earlier_call_measured(work):
    work(Bench(), arms="a", rates=(2.0,), rehearsal=1.0, repeats=1)
    bench = Bench()
    work(bench, arms="a", rates=(2.0,), rehearsal=1.0, repeats=2)
    assert [requests for _, _, _, requests in bench.sent[2:]] == [2, 4]


def test_when_the_load_generator_ends_no_arm_has_failed_and_what_was_finished_is_kept(work, tmp_path):
    with pytest.raises(GeneratorError, match="the load generator ended"):
        work(Bench(deadly=None), arms="a,b", rates=(2.0,), running=4)  # within the warm-up
    assert {arm.error for arm in read(tmp_path / "rate.json").arms.values()} == {None}
    with pytest.raises(GeneratorError):
        work(Bench(deadly=3.0), arms="a,b", rates=(2.0, 3.0))
    found = read(tmp_path / "rate.json")
    assert shown(found) == [("ab", 2.0, 0)]
    assert {arm.error for arm in found.arms.values()} == {None}


@pytest.mark.parametrize(("total", "measured"), [(19.0, []), (21.0, [("ab", None, 0)])])
def test_all_at_once_is_expected_to_take_as_long_as_the_servers_speed_says(work, total, measured):
    """Each arm has answered 4 requests in 5 s of warm-up, so that 8 will take it 10 s."""
    found = work(Bench(), arms="a,b", rates=(None,), requests=8, running=4, repeats=1, total=total, clock=lambda: 0.0)
    assert shown(found) == measured


@pytest.mark.parametrize(("total", "measured"), [(29.0, []), (31.0, [("a", None, 0)])])
def test_a_rehearsal_is_time_too(work, total, measured):
    found = work(
        Bench(), arms="a", rates=(None,), requests=16, running=4, repeats=1, total=total, rehearsal=1.0,
        clock=lambda: 0.0,
    )  # fmt: skip
    assert shown(found) == measured
