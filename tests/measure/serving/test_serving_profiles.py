"""Which profiles are made, when, and what becomes of an arm that cannot be profiled: no engine."""

from collections import Counter

from tests.measure.serving.standins import Bench

SPEED = {"a": 1.0, "b": 2.0, "c": 0.5}


def profiles(record):
    return {(row.arm, row.work.size): row.profile for row in record.rows if row.profile}


def test_each_cell_is_profiled_once_all_timing_is_over(work):
    bench = Bench(SPEED)
    found = work(bench, lengths="1024,4096", packed_tokens=4096, profile=1.0)
    assert bench.profiled == [(arm, "prefill", length) for arm in "abc" for length in (1024, 4096)]
    assert profiles(found).keys() == {(arm, length) for arm in "abc" for length in (1024, 4096)}
    assert {profile.seconds["attention"] for profile in profiles(found).values()} == {1e-3}


def test_baseline_is_profiled_after_the_last_arm_that_it_is_timed_beside(work):
    bench = Bench(SPEED)
    work(bench, lengths="1024", resident=2, profile=1.0)
    assert [arm for arm, *_ in bench.profiled] == ["b", "a", "c"]


def test_what_was_timed_is_profiled_where_the_time_does_not_suffice_for_the_rest(work):
    bench = Bench({"a": 1.0, "b": 1.0, "c": 1.0})
    found = work(bench, lengths="1024,65536", resident=2, profile=1.0, total=1.0)
    assert 65536 not in {length for _, length, _ in bench.asked}
    assert bench.profiled == [("a", "prefill", 1024), ("b", "prefill", 1024)]
    assert len(profiles(found)) == 2


def test_profile_takes_longer_than_its_run_and_so_much_must_be_left(work):
    work(Bench({"a": 1.0}), arms="a", lengths="1024")
    run = Bench({"a": 1.0}).seconds("a", 1024)
    for runs, expected in ((1 + 3, 0), (1 + 5, 1)):  # the first is the warm-up
        bench = Bench({"a": 1.0})
        work(bench, arms="a", lengths="1024", profile=1.0, total=runs * run)
        assert (runs, len(bench.profiled)) == (runs, expected)


def test_long_runs_are_not_profiled(work):
    # 8,192 tokens take 0.15 s at speed 1.
    bench = Bench({"a": 1.0, "b": 0.5})
    work(bench, arms="a,b", lengths="1024,8192", profile=0.2)
    assert bench.profiled == [("a", "prefill", 1024), ("a", "prefill", 8192), ("b", "prefill", 1024)]


def test_missing_profile_is_made_up_for_once(work):
    work(Bench(SPEED), arms="a,b", lengths="1024")
    later = Bench(SPEED)
    assert len(profiles(work(later, arms="a,b", lengths="1024", profile=1.0))) == 2
    assert Counter(length for _, length, _ in later.asked) == {1024: 2}, "the warm-up of two engines"
    again = Bench(SPEED)
    work(again, arms="a,b", lengths="1024", profile=1.0)
    assert again.started == []


def test_arm_that_cannot_be_profiled_keeps_its_times(work):
    found = work(Bench(SPEED, blind={"b"}), arms="a,b", lengths="1024", profile=1.0)
    assert {key: profile.error for key, profile in profiles(found).items()} == {
        ("a", 1024): None,
        ("b", 1024): "no kernel",
    }
    assert found.arms["b"].error is None
    assert found.rows[1].seconds


def test_arm_whose_process_ends_while_it_is_profiled_has_not_failed_and_is_asked_nothing_more(work):
    bench = Bench(SPEED, fatal={("b", 1024)})
    found = work(bench, lengths="1024,4096", profile=1.0)
    assert {arm.error for arm in found.arms.values()} == {None}
    assert {key: profile.error for key, profile in profiles(found).items()} == {
        ("a", 1024): None, ("a", 4096): None, ("b", 1024): "it ended", ("c", 1024): None, ("c", 4096): None,
    }  # fmt: skip
    later = Bench(SPEED)
    work(later, lengths="1024,4096", profile=1.0)
    assert later.profiled == [("b", "prefill", 4096)], "what it died of is not tried again"
