"""Turns, budgets and resumption, with arms whose times are formulas: no engine, and no clock but theirs."""

from collections import Counter

import pytest

from sage_eval.errors import SageEvalError
from sage_eval.probes.serving.record import Cell
from tests.probes.serving.standins import Bench


def test_arms_take_turns_with_the_same_prompts_and_each_begins_a_round(work):
    bench = Bench({"a": 1.0, "b": 2.0, "c": 0.5})
    found = work(bench, lengths=(3000,))
    timed = bench.asked[-12:]
    assert [name for name, _, _ in timed] == ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"]
    seeds = [seed for _, _, seed in timed]
    assert [len(set(seeds[i : i + 3])) for i in (0, 3, 6, 9)] == [1, 1, 1, 1]
    assert len(set(seeds)) == 4
    ratios = {row["arm"]: row["ratio"] for row in found.summary["rows"]}
    assert ratios["b"]["value"] == pytest.approx(2.0)
    assert ratios["c"]["value"] == pytest.approx(0.5)
    assert ratios["b"]["method"] == "range of 4 rounds"


def test_engines_that_do_not_fit_together_run_beside_the_baseline(work):
    found = work(Bench({"a": 1.0, "b": 2.0, "c": 0.5}), lengths=(1024,), resident=2)
    assert [sorted(block.results) for block in found.blocks] == [["a", "b"], ["a", "c"]]
    assert {row["arm"]: row["ratio"] and row["ratio"]["value"] for row in found.summary["rows"]} == {
        "a": None,
        "b": pytest.approx(2.0),
        "c": pytest.approx(0.5),
    }


def test_one_engine_at_a_time_gives_ratios_without_an_interval(work):
    found = work(Bench({"a": 1.0, "b": 2.0, "c": 0.5}), lengths=(1024,), resident=1)
    assert [sorted(block.results) for block in found.blocks] == [["a"], ["b"], ["c"]]
    assert [row["ratio"]["method"] for row in found.summary["rows"][1:]] == ["not interleaved"] * 2


def test_what_would_take_too_long_is_left_out_and_said(work):
    # 65,536 tokens take 5 s at speed 1.
    found = work(Bench({"a": 1.0, "b": 2.0, "c": 0.25}), longest=6.0)
    [block] = found.blocks_of(Cell(kind="prefill", size=65536))
    assert sorted(block.results) == ["a", "b"]
    assert block.skipped == {"c": "one run would take about 20 s"}


def test_a_baseline_that_would_take_too_long_does_not_keep_the_others_from_it(work):
    found = work(Bench({"a": 0.25, "b": 2.0}), arms="a,b", longest=6.0)
    [block] = found.blocks_of(Cell(kind="prefill", size=65536))
    assert sorted(block.results) == ["b"]


def test_a_first_run_that_is_long_counts_and_is_not_repeated(work):
    bench = Bench({"a": 1.0, "b": 1.0})
    found = work(bench, arms="a,b", lengths=(65536,), seconds=4.0)
    [block] = found.blocks
    assert {name: (len(result.seconds), result.warm_up) for name, result in block.results.items()} == {
        "a": (1, None),
        "b": (1, None),
    }
    assert Counter(length for _, length, _ in bench.asked)[65536] == 2


def test_a_first_run_that_only_one_arm_takes_long_for_is_a_warm_up(work):
    # 4,096 tokens take 0.06 s, and `b` compiles something for them: its one timed run must not be that.
    found = work(
        Bench({"a": 1.0, "b": 1.0}, compiles=[("b", 4096)]), arms="a,b", lengths=(1024, 4096, 8192), seconds=4.0
    )
    [block] = found.blocks_of(Cell(kind="prefill", size=4096))
    assert block.results["b"].warm_up > 9
    assert max(block.results["b"].seconds) < 1


def test_no_timed_run_has_the_prompts_of_another_or_of_a_warm_up_or_a_profile(work):
    bench = Bench({"a": 1.0})
    work(bench, arms="a", lengths=(4096,), profile=1.0)
    timed = [seed for _, length, seed in bench.asked if length == 4096 and seed]  # an engine's own warm-up has seed 0
    assert len(timed) == 1 + 4
    assert len({*timed, *bench.profile_seeds}) == 1 + 4 + 1


def test_a_long_first_run_of_many_requests_is_a_warm_up(work):
    # As what one arm compiles for some of them would count against it.
    found = work(Bench({"a": 0.1, "b": 0.1}), arms="a,b", lengths=(), mixed=8, seconds=4.0)
    [block] = found.blocks
    assert all(len(result.seconds) == 1 and result.warm_up > 0.8 for result in block.results.values())


def test_a_finished_cell_is_not_run_again(work):
    speed = {"a": 1.0, "b": 2.0}
    work(Bench(speed), arms="a,b", lengths=(1024,))
    again = Bench(speed)
    work(again, arms="a,b", lengths=(1024,))
    assert again.asked == []


def test_a_new_arm_is_measured_beside_the_baseline_and_the_old_one_is_left_alone(work):
    speed = {"a": 1.0, "b": 2.0, "c": 0.5}
    first = work(Bench(speed), arms="a,b", lengths=(1024,))
    found = work(Bench(speed), arms="a,b,c", lengths=(1024,))
    assert found.blocks[:1] == first.blocks
    assert sorted(found.blocks[1].results) == ["a", "c"]


def test_an_arm_that_breaks_off_is_noted_and_the_others_go_on(work):
    found = work(Bench({"a": 1.0, "b": 1.0, "c": 1.0}, broken={"b": 8192, "c": "start"}))
    assert found.arms["b"].error == "it broke off"
    assert found.arms["c"].error == "it does not start"
    assert found.done("b", Cell(kind="prefill", size=4096))
    assert [sorted(block.results) for block in found.blocks] == [["a", "b"], ["a", "b"], ["a"], ["a"]]


def test_without_a_baseline_there_is_nothing_to_compare(work):
    with pytest.raises(SageEvalError, match="does not start"):
        work(Bench({"a": 1.0, "b": 1.0}, broken={"a": "start"}), arms="a,b")


def test_when_the_time_is_over_no_further_engine_is_started(work):
    bench = Bench({"a": 1.0, "b": 1.0})
    found = work(bench, arms="a,b", lengths=(1024,), resident=1, total=2.5 * bench.seconds("a", 1024))
    assert bench.started == ["a"]
    assert [sorted(block.results) for block in found.blocks] == [["a"]]


def test_an_engine_is_waited_for_as_long_as_its_longest_run_and_the_time_that_is_left_explain(work):
    bench = Bench({"a": 1.0})
    work(bench, arms="a", lengths=(1024,), longest=30.0)
    assert set(bench.limits) == {600.0 + 300.0}
    bench = Bench({"a": 1.0})
    work(bench, arms="a", lengths=(65536,), longest=30.0, total=20.0)
    assert bench.limits[0] == 600.0 + 20.0
    assert bench.limits == sorted(bench.limits, reverse=True)
    assert 600.0 <= bench.limits[-1] < 601.0


def test_memory_alone_runs_each_length_once(work):
    bench = Bench({"a": 1.0, "b": 1.0})
    found = work(bench, arms="a,b", lengths=(65536,), seconds=0.0)
    assert Counter(length for _, length, _ in bench.asked)[65536] == 2
    assert found.blocks[0].results["b"].memory == {"before_allocated": 100, "peak_allocated": 150}


def test_coverage_goes_on_where_an_earlier_call_left_it(work):
    speed = {"a": 1.0}
    once = work(Bench(speed), arms="a", lengths=(1024,)).arms["a"].coverage["prefill/some"]
    bench = Bench(speed)
    twice = work(bench, arms="a", lengths=(1024, 4096)).arms["a"].coverage["prefill/some"]
    assert twice == once + len(bench.asked)


def test_a_mix_has_the_same_lengths_in_every_round_and_all_its_tokens_count(work):
    bench = Bench({"a": 1.0, "b": 2.0})
    found = work(bench, arms="a,b", lengths=(), mixed=5)
    [block] = found.blocks
    assert {length for _, length, _ in bench.asked[-8:]} == {block.tokens}
    assert (block.cell.name, block.requests) == ("mixed/5", 5)
    rows = {row["arm"]: row for row in found.summary["rows"]}
    assert rows["b"]["ratio"]["value"] == pytest.approx(2.0)
    assert rows["b"]["tokens_per_second"] * rows["b"]["seconds"]["p50"] == pytest.approx(
        block.tokens + block.new_tokens
    )


def test_a_mix_that_would_take_too_long_is_left_out_and_said(work):
    # Some 9,000 tokens, in prompts of up to 4,000: 0.1 s at speed 1.
    found = work(Bench({"a": 1.0, "b": 0.01}), arms="a,b", lengths=(1024, 2048), mixed=5, longest=5.0)
    [block] = found.blocks_of(Cell(kind="mixed", size=5))
    assert sorted(block.results) == ["a"]
    assert "one run would take about" in block.skipped["b"]
