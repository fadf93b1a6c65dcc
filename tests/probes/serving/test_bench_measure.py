"""Turns, budgets and resumption, with arms whose times are formulas: no engine, and no clock that matters."""

from collections import Counter

import pytest

from sage_eval.errors import EngineError, SageEvalError
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.serving import measure
from sage_eval.probes.serving.measure import Measurement
from sage_eval.probes.serving.plan import make_plan
from sage_eval.probes.serving.record import Cell, Record, read
from sage_eval.probes.shape import describe, write_shape

LENGTHS = (1024, 4096, 8192, 65536)


class Bench:
    """Starts stand-ins for arms and notes what they are asked.

    `speed` divides the time, `broken` fails at a length, `compiles` are (arm, length) whose first run takes 9 s more,
    and what is `blind` cannot be profiled. No engine may be timed once it was profiled.
    """

    def __init__(self, speed, broken=None, compiles=(), blind=()):
        self.speed, self.broken, self.compiles, self.blind = speed, broken or {}, set(compiles), blind
        self.asked, self.profiled, self.alive = [], [], []

    def start(self, name, order, folder):
        self.profiled = [found for found in self.profiled if found[0] != name]
        return StandIn(self, name)


class StandIn:
    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        bench.alive.append(name)

    def ready(self):
        if self.bench.broken.get(self.name) == "start":
            raise EngineError("it does not start")
        memory = {"weights": 1, "kv_cache": 2, "kv_tokens": 1}
        return {"engine": {"chunked_prefill_size": 2048}, "memory": memory}, 1.0

    def ask(self, do, *, length=0, seed=0, **command):
        length = length or sum(prompt for prompt, _ in command.get("mix", ()))
        if do == "memory":
            return {"memory": {"allocated": 100, "peak_allocated": 150}}
        if do == "coverage":
            return {"coverage": {"prefill/some": len(self.bench.asked)}}
        if do == "profile":
            self.bench.profiled.append((self.name, command["kind"], length or command["requests"]))
            if self.name in self.bench.blind:
                return {"error": "no kernel"}
            parts = {"attention": 1e-3, "products": 2e-3, "other": 0.0, "idle": 1e-3}
            return {"times": {"seconds": parts, "by": "launch", "guessed": 0.0, "kernels": []}}
        assert not any(name == self.name for name, *_ in self.bench.profiled), "timed after it was profiled"
        if self.bench.broken.get(self.name) == length:
            raise EngineError("it broke off")
        self.bench.asked.append((self.name, length, seed))
        extra = 9.0 if (self.name, length) in self.bench.compiles else 0.0
        self.bench.compiles.discard((self.name, length))
        return {"seconds": (1e-5 * length + 1e-9 * length**2) / self.bench.speed[self.name] + extra}

    def dismiss(self):
        pass

    def close(self):
        self.bench.alive.remove(self.name)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """`work(bench, **options)`: the record after measuring arms a, b and c (baseline a), with 4 rounds a cell."""
    monkeypatch.setattr(measure, "MAX_ROUNDS", 4)
    model = write_shape("llama-3.1-8b", tmp_path / "model")
    path = tmp_path / "serving.json"

    def run(bench, arms="a,b,c", **options):
        chosen = {
            "lengths": LENGTHS, "batches": (), "packed_tokens": 0, "mixed": 0,
            "profile": 0, "seconds": 1e6, "resident": 3,
        } | options  # fmt: skip
        plan = make_plan(model, parse_arms(arms), None, **chosen)
        empty = Record(
            kind="serving", created="", command="", baseline="a", model=describe(model), settings=plan.settings(),
            versions={}, host={}, devices=[],
        )  # fmt: skip
        into = read(path) if path.exists() else empty
        try:
            Measurement(plan, into, path, lambda _: None, bench.start).run()
        finally:
            assert bench.alive == []
        return read(path)

    return run


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


def test_when_the_time_is_over_no_engine_is_started(work, tmp_path):
    bench = Bench({"a": 1.0, "b": 1.0})
    work(bench, arms="a,b", lengths=(1024,))
    later = Bench({"a": 1.0, "b": 1.0})
    work(later, arms="a,b", lengths=(1024, 4096), total=1e-9)
    assert later.asked == []


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


def test_each_cell_is_profiled_once_all_timing_is_over(work):
    bench = Bench({"a": 1.0, "b": 2.0, "c": 0.5})
    found = work(bench, lengths=(1024, 4096), packed_tokens=4096, profile=1.0)
    assert bench.profiled == [(arm, "prefill", length) for arm in "abc" for length in (1024, 4096)]
    assert [(profile.arm, profile.cell.name) for profile in found.profiles[:2]] == [
        ("a", "prefill/1024"), ("a", "prefill/4096"),
    ]  # fmt: skip
    assert {profile.times.seconds["attention"] for profile in found.profiles} == {1e-3}


def test_the_baseline_is_profiled_after_the_last_arm_that_it_is_timed_beside(work):
    bench = Bench({"a": 1.0, "b": 2.0, "c": 0.5})
    work(bench, lengths=(1024,), resident=2, profile=1.0)
    assert [arm for arm, *_ in bench.profiled] == ["b", "a", "c"]


def test_where_the_time_does_not_suffice_for_the_rest_what_was_timed_is_profiled(work):
    bench = Bench({"a": 1.0, "b": 1.0, "c": 1.0})
    found = work(bench, lengths=(1024, 65536), resident=2, profile=1.0, total=1.0)
    assert 65536 not in {length for _, length, _ in bench.asked}
    assert bench.profiled == [("a", "prefill", 1024), ("b", "prefill", 1024)]
    assert len(found.profiles) == 2


def test_long_runs_are_not_profiled(work):
    # 8,192 tokens take 0.15 s at speed 1.
    bench = Bench({"a": 1.0, "b": 0.5})
    work(bench, arms="a,b", lengths=(1024, 8192), profile=0.2)
    assert bench.profiled == [("a", "prefill", 1024), ("a", "prefill", 8192), ("b", "prefill", 1024)]


def test_what_was_profiled_is_not_profiled_again_and_a_profile_alone_is_made_up_for(work):
    speed = {"a": 1.0, "b": 2.0}
    work(Bench(speed), arms="a,b", lengths=(1024,))
    later = Bench(speed)
    assert len(work(later, arms="a,b", lengths=(1024,), profile=1.0).profiles) == 2
    assert Counter(length for _, length, _ in later.asked) == {1024: 2}, "the warm-up of two engines"
    again = Bench(speed)
    work(again, arms="a,b", lengths=(1024,), profile=1.0)
    assert (again.asked, again.profiled) == ([], [])


def test_an_arm_that_cannot_be_profiled_keeps_its_times(work):
    bench = Bench({"a": 1.0, "b": 2.0}, blind={"b"})
    found = work(bench, arms="a,b", lengths=(1024,), profile=1.0)
    assert [(profile.arm, profile.error) for profile in found.profiles] == [("a", None), ("b", "no kernel")]
    assert found.arms["b"].error is None
    assert found.done("b", Cell(kind="prefill", size=1024))


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
