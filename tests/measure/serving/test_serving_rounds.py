"""Turns, budgets and resumption, with arms whose times are formulas: no engine, and no clock but theirs."""

from collections import Counter

import pytest

from sage_eval.errors import SageEvalError
from sage_eval.measure.serving.summary import compared, counted, quantiles
from tests.measure.serving.conftest import blocks
from tests.measure.serving.standins import Bench

EVEN = {"a": 1.0, "b": 1.0}
SPEED = {"a": 1.0, "b": 2.0, "c": 0.5}


def ratios(record):
    return {row.arm: found[0] for row in counted(record) if (found := compared(record, row))}


def test_arms_take_turns_with_the_same_prompts_and_each_begins_a_round(work):
    bench = Bench(SPEED)
    found = work(bench, lengths="3000")
    timed = bench.asked[-12:]
    assert [name for name, _, _ in timed] == ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"]
    seeds = [seed for _, _, seed in timed]
    assert [len(set(seeds[i : i + 3])) for i in (0, 3, 6, 9)] == [1, 1, 1, 1]
    assert len(set(seeds)) == 4
    assert {arm: ratio.value for arm, ratio in ratios(found).items()} == pytest.approx({"b": 2.0, "c": 0.5})
    assert (ratios(found)["b"].interval, ratios(found)["b"].rounds) == ("few rounds", 4)


def test_engines_that_do_not_fit_together_run_beside_the_baseline(work):
    found = work(Bench(SPEED), lengths="1024", resident=2)
    assert [arms for _, arms in blocks(found)] == [["a", "b"], ["a", "c"]]
    assert {arm: ratio.value for arm, ratio in ratios(found).items()} == pytest.approx({"b": 2.0, "c": 0.5})


def test_one_engine_at_a_time_gives_ratios_without_an_interval(work):
    found = work(Bench(SPEED), lengths="1024", resident=1)
    assert [arms for _, arms in blocks(found)] == [["a"], ["b"], ["c"]]
    assert {ratio.interval for ratio in ratios(found).values()} == {"not interleaved"}


def test_run_that_would_take_too_long_is_skipped_with_its_reason(work):
    # 65,536 tokens take 5 s at speed 1.
    found = work(Bench({"a": 1.0, "b": 2.0, "c": 0.25}), longest=6.0)
    assert blocks(found)[-1] == ("prefill/65536", ["a", "b"])
    [skipped] = [row for row in found.rows if row.skipped]
    assert (skipped.arm, skipped.cell, skipped.skipped) == ("c", "prefill/65536", "one run would take about 20 s")


def test_baseline_that_would_take_too_long_does_not_keep_the_others_from_it(work):
    found = work(Bench({"a": 0.25, "b": 2.0}), arms="a,b", longest=6.0)
    assert blocks(found)[-1] == ("prefill/65536", ["b"])


def test_more_patience_measures_what_was_skipped(work):
    work(Bench(EVEN), arms="a,b", longest=4.0)
    found = work(Bench(EVEN), arms="a,b", longest=6.0)
    assert blocks(found)[-1] == ("prefill/65536", ["a", "b"])


def test_long_first_run_counts_and_is_not_repeated(work):
    bench = Bench(EVEN)
    found = work(bench, arms="a,b", lengths="65536", seconds=4.0)
    assert [(len(row.seconds), row.warm_up) for row in found.rows] == [(1, None), (1, None)]
    assert Counter(length for _, length, _ in bench.asked)[65536] == 2


def test_first_run_that_is_long_for_one_arm_alone_is_a_warm_up(work):
    # 4,096 tokens take 0.06 s, and `b` compiles something for them: its one timed run must not be that.
    found = work(Bench(EVEN, compiles=[("b", 4096)]), arms="a,b", lengths="1024,4096,8192", seconds=4.0)
    [row] = [row for row in found.rows if (row.arm, row.cell) == ("b", "prefill/4096")]
    assert row.warm_up > 9
    assert max(row.seconds) < 1


def test_no_timed_run_has_the_prompts_of_another_or_of_a_warm_up_or_a_profile(work):
    bench = Bench({"a": 1.0})
    work(bench, arms="a", lengths="4096", profile=1.0)
    timed = [seed for _, length, seed in bench.asked if length == 4096 and seed]  # an engine's own warm-up has seed 0
    assert len(timed) == 1 + 4
    assert len({*timed, *bench.profile_seeds}) == 1 + 4 + 1


def test_long_first_run_of_many_requests_is_a_warm_up(work):
    # As what one arm compiles for some of them would count against it.
    found = work(Bench({"a": 0.1, "b": 0.1}), arms="a,b", lengths="", mixed=8, seconds=4.0)
    assert all(len(row.seconds) == 1 and row.warm_up > 0.8 for row in found.rows)


def test_finished_cell_is_not_run_again(work):
    work(Bench(EVEN), arms="a,b", lengths="1024")
    again = Bench(EVEN)
    work(again, arms="a,b", lengths="1024")
    assert again.started == []


def test_new_arm_is_measured_beside_the_baseline_and_the_old_one_is_left_alone(work):
    first = work(Bench(SPEED), arms="a,b", lengths="1024")
    found = work(Bench(SPEED), arms="a,b,c", lengths="1024")
    assert found.rows[:2] == first.rows
    assert blocks(found)[1] == ("prefill/1024", ["a", "c"])


def test_arm_that_breaks_off_is_noted_and_the_others_go_on(work):
    found = work(Bench({"a": 1.0, "b": 1.0, "c": 1.0}, broken={"b": 8192, "c": "start"}))
    assert found.arms["b"].error == "it broke off"
    assert found.arms["c"].error == "it does not start"
    assert [arms for _, arms in blocks(found)] == [["a", "b"], ["a", "b"], ["a"], ["a"]]


@pytest.mark.parametrize("when", ["start", 1024])
def test_baseline_that_does_not_survive_its_warm_up_ends_the_command(work, when):
    with pytest.raises(SageEvalError, match="the baseline did not start: it"):
        work(Bench(EVEN, broken={"a": when}), arms="a,b", lengths="1024")


def test_when_the_time_is_over_no_further_engine_is_started(work):
    bench = Bench(EVEN)
    found = work(bench, arms="a,b", lengths="1024", resident=1, total=2.5 * bench.seconds("a", 1024))
    assert bench.started == ["a"]
    assert blocks(found) == [("prefill/1024", ["a"])]


def test_engine_is_waited_for_as_long_as_its_longest_run_and_the_time_that_is_left_explain(work):
    bench = Bench({"a": 1.0})
    work(bench, arms="a", lengths="1024", longest=30.0)
    assert set(bench.limits) == {600.0 + 300.0}
    bench = Bench({"a": 1.0})
    work(bench, arms="a", lengths="65536", longest=30.0, total=20.0)
    assert bench.limits == pytest.approx([600.0 + max(0.0, 20.0 - now) for now in bench.limited_at])
    assert bench.limited_at[-1] > 10.0


def test_memory_alone_runs_each_length_once_and_leaves_its_timing_for_later(work):
    bench = Bench(EVEN)
    found = work(bench, arms="a,b", lengths="65536", memory_only=True, profile=9.0)
    assert Counter(length for _, length, _ in bench.asked)[65536] == 2
    assert [(row.seconds, row.memory) for row in found.rows] == [
        ([], {"before_allocated": 100, "peak_allocated": 150, "kv_cache": 2})
    ] * 2
    assert bench.profiled == []
    again = Bench(EVEN)
    work(again, arms="a,b", lengths="65536", memory_only=True)
    assert again.started == []
    assert [arms for _, arms in blocks(work(Bench(EVEN), arms="a,b", lengths="65536"))] == [["a", "b"]] * 2


def test_mix_has_the_same_lengths_in_every_round_and_all_its_tokens_count(work):
    bench = Bench(SPEED)
    found = work(bench, arms="a,b", lengths="", mixed=5)
    row = found.rows[1]
    assert {length for _, length, _ in bench.asked[-8:]} == {row.tokens}
    assert (row.cell, row.requests) == ("mixed/5", 5)
    assert ratios(found)["b"].value == pytest.approx(2.0)
    assert row.computed == row.tokens + row.new_tokens
    assert quantiles(row)[1] == pytest.approx(bench.seconds("b", row.tokens))


def test_mix_that_would_take_too_long_is_skipped_with_its_reason(work):
    # Some 9,000 tokens, in prompts of up to 4,000: 0.1 s at speed 1.
    found = work(Bench({"a": 1.0, "b": 0.01}), arms="a,b", lengths="1024,2048", mixed=5, longest=5.0)
    assert blocks(found)[-1] == ("mixed/5", ["a"])
    assert "one run would take about" in found.rows[-1].skipped
