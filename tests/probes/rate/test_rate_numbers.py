"""Limits, ratios, the plan, the record, its table and its figure: pure functions on made-up numbers."""

import json
from pathlib import Path

import pytest

from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.rate import figures, record
from sage_eval.probes.rate.plan import make_plan
from sage_eval.probes.rate.record import ArmRecord, Block, Record, Result
from sage_eval.probes.rate.summary import behind, kept, limit, summarise
from sage_eval.probes.rate.table import render
from sage_eval.probes.shape import describe, write_shape
from sage_eval.report.figures.style import svgs

BASE, FAST = "fa3", "sage_attn+fa3"
STORED = Path(__file__).parent / "stored" / "schema_1.json"


def answers(ttft, *, tail=0.1, seconds=None):
    """A result: each request's last token comes `tail` seconds after its first."""
    latency = [value + tail for value in ttft]
    itl = {"mean": 0.01, "p50": 0.01, "p95": 0.02, "p99": 0.02}
    return Result(
        seconds=seconds or max(latency), input_tokens=100 * len(ttft), output_tokens=10 * len(ttft), ttft=ttft,
        latency=latency, itl=itl,
    )  # fmt: skip


def block(rate, repeat, results, *, arrivals=(0.0, 1.0, 2.0), sending=2.5, **more):
    values = {"seed": repeat, "arrivals": list(arrivals), "sending": sending, "interleaved": len(results) > 1} | more
    return Block(rate=rate, repeat=repeat, results=results, **values)


@pytest.fixture
def measured():
    """Two repeats of one request a second, three requests each; then three at once. Nobody is behind."""
    blocks = [
        block(1.0, 0, {BASE: answers([0.2] * 3, seconds=2.5), FAST: answers([0.1] * 3, seconds=2.5)}),
        block(1.0, 1, {BASE: answers([0.3] * 3, seconds=2.5), FAST: answers([0.2] * 3, seconds=2.5)}),
        block(None, 0, {BASE: answers([0.4, 0.8, 1.2]), FAST: answers([0.3, 0.6, 0.9])}, arrivals=[0.0] * 3, sending=0),
    ]
    made = Record(
        created="2026-01-01T00:00:00+00:00", command="sage-eval bench rate", baseline=BASE, model={"name": "m"},
        settings={
            "engine": {"load_format": "dummy"}, "input_tokens": 100, "output_tokens": 10, "requests": 3,
            "seconds": 30.0, "seed": 0,
        },
        versions={"sglang": "0.5.17"}, host={"cpu": "some CPU"}, devices=[], blocks=blocks,
        arms={BASE: ArmRecord(arguments={}, role="baseline"), FAST: ArmRecord(arguments={}, role="candidate")},
    )  # fmt: skip
    made.summary = summarise(made)
    return made


@pytest.fixture
def model(tmp_path):
    return write_shape("llama-3.1-8b", tmp_path / "shape")


def row(found, arm, rate):
    [wanted] = [row for row in found.summary["rows"] if (row["arm"], row["rate"]) == (arm, rate)]
    return wanted


def test_a_server_that_keeps_up_answers_as_fast_as_it_is_asked():
    assert kept(block(1.0, 0, {BASE: answers([0.2] * 3)}), BASE) == pytest.approx(1.0)


def test_a_server_that_falls_behind_answers_slower():
    # Requests at 0, 1, 2 s; answers at 0.5, 2.5 and 4.5 s.
    assert kept(block(1.0, 0, {BASE: answers([0.4, 1.4, 2.4])}), BASE) == pytest.approx(0.5)


def test_a_server_that_catches_up_after_a_slow_beginning_has_kept_up():
    # Answers at 1.5, 1.6 and 2.5 s.
    assert kept(block(1.0, 0, {BASE: answers([1.4, 0.5, 0.4])}), BASE) == 1.0


def test_an_answer_that_overtakes_others_does_not_count_as_the_last():
    # Answers at 0.5, 4.5 and 2.5 s.
    assert kept(block(1.0, 0, {BASE: answers([0.4, 3.4, 0.4])}), BASE) == pytest.approx(0.5)


def test_what_neither_answers_nor_pauses_explain_is_the_generators_own():
    made = block(1.0, 0, {BASE: answers([0.2] * 3, seconds=2.6)})  # the last pause ends at 2.5 s
    assert behind(made, made.results[BASE]) == pytest.approx(0.1)
    late = block(1.0, 0, {BASE: answers([0.2, 0.2, 0.9], seconds=3.2)})  # the last answer is there after 3 s
    assert behind(late, late.results[BASE]) == pytest.approx(0.2)


def test_a_row_is_of_the_requests_of_all_repeats(measured):
    found = row(measured, FAST, 1.0)
    assert (found["requests"], found["repeats"]) == (6, 2)
    assert found["ttft"]["p50"] == pytest.approx(0.15)
    assert found["latency"]["mean"] == pytest.approx(0.25)
    assert (found["sent"], found["done"], found["input_rate"]) == (1.0, pytest.approx(1.2), pytest.approx(120))
    at_once = row(measured, FAST, None)
    assert (at_once["sent"], at_once["kept"], at_once["done"]) == (None, None, pytest.approx(3.0))


def test_the_ratio_is_that_of_the_medians_with_the_range_of_the_repeats(measured):
    found = row(measured, FAST, 1.0)["ratio"]
    assert found["value"] == pytest.approx(0.25 / 0.15)
    assert (found["low"], found["high"]) == (pytest.approx(1.5), pytest.approx(2.0))
    assert row(measured, FAST, None)["ratio"]["method"] == "one round"
    assert row(measured, BASE, 1.0)["ratio"] is None


def test_servers_one_after_the_other_have_a_ratio_without_a_range(measured):
    measured.arms["triton"] = ArmRecord(arguments={}, role="floor")
    measured.blocks += [block(1.0, repeat, {"triton": answers([0.5] * 3)}) for repeat in (0, 1)]
    measured.summary = summarise(measured)
    found = row(measured, "triton", 1.0)["ratio"]
    assert (found["value"], found["low"], found["method"]) == (pytest.approx(0.5), None, "not interleaved")


def test_without_a_baseline_at_that_rate_there_is_no_ratio(measured):
    measured.blocks.append(block(2.0, 0, {FAST: answers([0.5] * 3)}))
    measured.summary = summarise(measured)
    assert row(measured, FAST, 2.0)["ratio"] is None


def test_of_two_blocks_the_one_beside_the_baseline_counts(measured):
    measured.blocks.append(block(1.0, 0, {FAST: answers([9.0] * 3)}))
    assert summarise(measured) == measured.summary


def test_the_limit_is_the_highest_rate_that_was_kept_up_with(measured):
    falls_behind = answers([0.4, 1.4, 2.4])
    measured.blocks += [
        block(2.0, 0, {BASE: falls_behind, FAST: answers([0.1] * 3)}),
        block(4.0, 0, {BASE: falls_behind, FAST: falls_behind}),
    ]
    limits = summarise(measured)["limits"]
    assert {arm: found["knee"] for arm, found in limits.items()} == {BASE: 1.0, FAST: 2.0}
    assert limits[BASE]["done"] == pytest.approx(3 / 1.3)
    assert limit([]) == {"knee": None, "tried": False, "done": None, "input_rate": None}


def test_the_table_begins_with_the_limits(measured):
    text = render(measured)
    assert text.index("## Limits") < text.index("## Throughput") < text.index("## Latency, ms")
    assert "- `fa3`: all at once, 2.31 requests/s (231 input tokens/s); kept up with 1/s" in text
    assert "| 1/s | `sage_attn+fa3` | 6 | 1 | 100% | 1.2 | 120 | 12 |" in text
    assert (
        "| 1/s | `sage_attn+fa3` | 150.0 | 200.0 | 200.0 | 150.0 | 1.667 [1.500, 2.000] | 10.0 | 20.0 | 10.0 "
        "| 250.0 | 300.0 | 250.0 |" in text
    )
    assert "| all at once | `sage_attn+fa3` | 600.0 | 870.0 | 894.0 | 600.0 | 1.333 (one repeat) |" in text


def test_an_arm_that_failed_is_named_with_its_reason_and_one_that_keeps_up_with_nothing_so(measured):
    measured.arms[FAST].error = "arm sage_attn+fa3: 1 of 3 requests failed"
    measured.blocks = [block(1.0, 0, {BASE: answers([0.4, 1.4, 2.4])})]
    measured.summary = summarise(measured)
    text = render(measured)
    assert "**sage_attn+fa3 failed:** arm sage_attn+fa3: 1 of 3 requests failed" in text
    assert "- `fa3`: kept up with no rate tried" in text


def test_one_token_an_answer_has_no_time_between_tokens(measured):
    for made in measured.blocks:
        for result in made.results.values():
            result.itl = {}
    measured.summary = summarise(measured)
    assert "1.667 [1.500, 2.000] | – | – | – | 250.0" in render(measured)


def test_the_figure_has_a_line_an_arm_and_a_place_for_all_at_once(measured):
    [figure] = svgs(figures.drawings(measured))
    assert figure.text.count(">all at once<") == 1
    assert figure.text.count(">sage_attn+fa3<") == 1
    assert figure.description.startswith("Median at 1/s: fa3 250 ms; sage_attn+fa3 150 ms.")


def test_all_at_once_alone_is_no_curve(measured):
    measured.blocks = measured.blocks[-1:]
    measured.summary = summarise(measured)
    assert list(figures.drawings(measured)) == []


def test_low_rates_come_first_and_each_once_before_it_is_repeated(model):
    plan = make_plan(model, parse_arms(BASE), None, [None, 4.0, 1.0, 4.0], repeats=2)
    assert list(plan.cells()) == [(0, 1.0), (0, 4.0), (0, None), (1, 1.0), (1, 4.0), (1, None)]


def test_a_low_rate_is_sent_fewer_requests(model):
    plan = make_plan(model, parse_arms(BASE), None, [0.01, 2.0, 100.0, None], requests=60, seconds=10)
    sizes = {rate: plan.load(rate, 0, 1000).requests for rate in plan.rates}
    assert sizes == {0.01: 4, 2.0: 20, 100.0: 60, None: 60}


def test_each_repeat_sends_other_requests_and_each_arm_the_same(model):
    plan = make_plan(model, parse_arms(BASE), None, [2.0, 4.0], requests=10)
    first, again, second = (plan.load(2.0, repeat, 1000) for repeat in (0, 0, 1))
    assert first == again
    assert first.seed != second.seed


def test_the_cache_holds_what_runs_together(model):
    plan = make_plan(model, parse_arms(BASE), None, [1.0], requests=100, running=8, input_tokens=1000, output_tokens=24)
    arguments = plan.engine_arguments()
    assert arguments["max_length"] == 1024
    assert arguments["max_total_tokens"] == 8 * 1024 + 2048
    assert arguments["max_running_requests"] == arguments["cuda_graph_max_bs_decode"] == 8
    assert plan.warm_up(1000).requests == 8


def test_with_a_prefix_cache_it_is_emptied_and_graphs_of_the_user_are_not_added_to(model):
    mine = {"disable_radix_cache": False, "disable_cuda_graph": True}
    plan = make_plan(model, parse_arms(BASE), None, [1.0], model_args=mine)
    load = plan.load(1.0, 0, 1000)
    assert "--flush-cache" in load.arguments("http://x", Path("w"), Path("o"))
    assert "--flush-cache" not in load.model_copy(update={"flush": False}).arguments("http://x", Path("w"), Path("o"))
    assert "cuda_graph_max_bs_decode" not in plan.engine_arguments()


@pytest.mark.parametrize(("gib", "together"), [(78, [[BASE, FAST]]), (40, [[BASE], [FAST]])])
def test_two_servers_of_llama_8b_fit_on_80_gb_and_one_on_40(model, monkeypatch, gib, together):
    monkeypatch.setattr(gpu, "state", lambda: {"free_mib": gib * 1024})
    plan = make_plan(model, parse_arms(f"{BASE},{FAST}"), None, [1.0])
    assert [[arm.name for arm in group] for group in plan.groups(describe(model))] == together


@pytest.mark.parametrize(
    ("rates", "baseline", "message"),
    [([], None, "over 0"), ([0.0], None, "over 0"), ([float("nan")], None, "over 0"), ([1.0], "x", "none of the arms")],
)
def test_plans_that_cannot_be_are_refused(model, rates, baseline, message):
    with pytest.raises(UsageError, match=message):
        make_plan(model, parse_arms(BASE), baseline, rates)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(PrerequisiteError, match="--shape"):
        make_plan(tmp_path, parse_arms(BASE), None, [1.0])


def test_more_rates_go_into_the_same_file_and_other_requests_do_not(measured, tmp_path):
    path = tmp_path / record.RATE
    record.write(path, measured)
    again = record.resume(path, measured.model_copy(update={"blocks": [], "arms": {}, "command": "again"}))
    assert (again.blocks, again.command) == (measured.blocks, "again")
    assert again.done(FAST, 1.0, 1)
    assert not again.done(FAST, None, 1)
    for name, changed in (("settings", measured.settings | {"seed": 1}), ("devices", [{"name": "another"}])):
        with pytest.raises(UsageError, match=rf"another {name}.*--output"):
            record.resume(path, measured.model_copy(update={name: changed}))


def test_a_file_without_any_result_is_begun_anew_with_other_settings(measured, tmp_path):
    path = tmp_path / record.RATE
    failed = measured.model_copy(update={"blocks": []})
    record.write(path, failed)
    other = failed.model_copy(update={"settings": failed.settings | {"seed": 1}})
    assert record.resume(path, other) is other


def test_a_file_of_a_later_version_is_refused(measured, tmp_path):
    path = tmp_path / record.RATE
    path.write_text(json.dumps(measured.model_dump(mode="json") | {"schema_version": 2}))
    with pytest.raises(DataError, match="update it"):
        record.read(path)


def test_a_record_of_an_earlier_version_is_read_and_shown():
    stored = record.read(STORED)
    assert len(stored.blocks) == 4
    assert stored.summary == summarise(stored)
    text = render(stored)
    assert "| 2/s | `sage_attn` |" in text
    assert "SAGE_ATTN_VARIANT=int8-fp16" in text
    assert len(svgs(figures.drawings(stored))) == 1
