"""Turns, rehearsals and resumption, with servers whose times are given: no engine."""

import pytest

from sage_eval.errors import UsageError
from tests.probes.rate.stand_ins import Bench, shown


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
