"""Limits, ratios, the record, its table and its figure: pure functions on made-up numbers."""

import json
from pathlib import Path

import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.probes.rate import figures, record
from sage_eval.probes.rate.record import ArmRecord, Block, Record, Result
from sage_eval.probes.rate.summary import behind, limit, summarise
from sage_eval.probes.rate.table import render
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


def row(found, arm, rate):
    [wanted] = [row for row in found.summary["rows"] if (row["arm"], row["rate"]) == (arm, rate)]
    return wanted


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


def found(rate, kept):
    return {"rate": rate, "kept": kept, "done": 3.0, "input_rate": 300.0}


@pytest.mark.parametrize(
    ("verdicts", "knee", "fell", "unsure"),
    [
        ([True, True, False], 2.0, 4.0, []),
        ([True, False, True], 1.0, 2.0, []),
        ([True, None, True, False], 1.0, 8.0, [2.0]),
        ([False, True], None, 1.0, []),
        ([None], None, None, [1.0]),
        ([True], 1.0, None, []),
        ([], None, None, []),
    ],
)
def test_the_limit_is_the_highest_rate_below_which_all_were_kept_up_with(verdicts, knee, fell, unsure):
    rows = [found(2.0**place, kept) for place, kept in enumerate(verdicts)]
    limits = limit([*rows, found(None, None)])
    assert (limits["knee"], limits["fell"], limits["open"]) == (knee, fell, unsure)
    assert (limits["done"], limits["input_rate"]) == (3.0, 300.0)


def test_without_all_at_once_there_is_no_throughput_to_tell():
    assert limit([found(1.0, True)])["done"] is None


def paced(*slopes):
    """A repeat for each of `slopes`: 60 requests, one a second, whose waits grow by so many seconds a second."""
    seconds = [float(second) for second in range(60)]
    return [
        block(1.0, repeat, {BASE: answers([0.1 + slope * second for second in seconds])}, arrivals=seconds, sending=60)
        for repeat, slope in enumerate(slopes)
    ]


@pytest.mark.parametrize(
    ("slopes", "kept", "growth"),
    [((0.0, 0.01), True, 0.01), ((0.2, 0.0, 0.0), False, 0.2), ((0.0, 0.08), None, 0.08)],
)
def test_of_several_repeats_the_worst_counts(measured, slopes, kept, growth):
    measured.blocks = paced(*slopes)
    [only] = summarise(measured)["rows"]
    assert only["kept"] is kept
    assert only["growth"] == pytest.approx(growth)


def test_the_table_begins_with_the_limits(measured):
    measured.blocks += paced(0.0)
    measured.blocks[-1].rate = 2.0
    text = render(measured)
    assert text.index("## Limits") < text.index("## Throughput") < text.index("## Latency, ms")
    assert "- `fa3`: all at once, 2.31 requests/s (231 input tokens/s); too short to say at 1/s" in text
    assert "| 1/s | `sage_attn+fa3` | 6 | 2 | 1 | +0 | – | 1.2 | 120 | 12 |" in text
    assert "| 2/s | `fa3` | 60 | 1 | 1 | +0 | yes |" in text
    assert (
        "| 1/s | `sage_attn+fa3` | 2 | 150.0 | – | – | 150.0 | 1.667 (1.500 to 2.000 in 2 repeats) | 10.0 | – | 10.0 "
        "| 250.0 | – | 250.0 |" in text
    )
    assert "| all at once | `sage_attn+fa3` | 1 | 600.0 | – | – | 600.0 | 1.333 (one repeat, no interval) |" in text


def test_an_arm_that_failed_is_named_with_its_reason_and_one_that_falls_behind_so(measured):
    measured.arms[FAST].error = "arm sage_attn+fa3: 1 of 3 requests failed"
    measured.blocks = paced(0.5)
    text = render(measured)
    assert "**sage_attn+fa3 failed:** arm sage_attn+fa3: 1 of 3 requests failed" in text
    assert "- `fa3`: fell behind at 1/s" in text


def test_one_token_an_answer_has_no_time_between_tokens(measured):
    for made in measured.blocks:
        for result in made.results.values():
            result.itl = {}
    assert "(1.500 to 2.000 in 2 repeats) | – | – | – | 250.0" in render(measured)


def test_arms_with_chunks_of_several_sizes_are_named_in_their_order(measured):
    for arm, size in zip(measured.arms.values(), (8192, 2048), strict=True):
        arm.engine = {"chunked_prefill_size": size}
    assert "chunks of 8192, 2048 tokens" in render(measured)


@pytest.mark.parametrize(
    ("settings", "words", "absent"),
    [
        ({}, "and with nothing else", "freeze_gc"),
        ({"rehearsal": 0.0}, "`/freeze_gc`", "Before its first"),
        (
            {"rehearsal": 5.0},
            "Before its first measured run at a rate it answered 5 s of other requests",
            "nothing else",
        ),
    ],
)
def test_the_notes_say_how_servers_were_warmed_up(measured, settings, words, absent):
    measured.settings |= settings
    text = render(measured)
    assert words in text
    assert absent not in text


def test_the_figure_has_a_line_an_arm_and_a_place_for_all_at_once(measured):
    [figure] = svgs(figures.drawings(measured))
    assert figure.text.count(">all at once<") == 1
    assert figure.text.count(">sage_attn+fa3<") == 1
    assert figure.description.startswith("Median at 1/s: fa3 250 ms; sage_attn+fa3 150 ms.")


def test_all_at_once_alone_is_no_curve(measured):
    measured.blocks = measured.blocks[-1:]
    measured.summary = summarise(measured)
    assert list(figures.drawings(measured)) == []


def test_more_rates_go_into_the_same_file_and_other_requests_do_not(measured, tmp_path):
    path = tmp_path / record.RATE
    record.write(path, measured)
    again = record.resume(path, measured.model_copy(update={"blocks": [], "arms": {}, "command": "again"}))
    assert (again.blocks, again.command) == (measured.blocks, f"{measured.command}\nagain")
    assert again.done(FAST, 1.0, 1)
    assert not again.done(FAST, None, 1)
    for name, changed in (("settings", measured.settings | {"seed": 1}), ("devices", [{"name": "another"}])):
        with pytest.raises(UsageError, match=rf"another {name}.*--output"):
            record.resume(path, measured.model_copy(update={name: changed}))


@pytest.mark.parametrize("before", ["a" * 64, None])
def test_what_other_code_measured_or_nobody_knows_which_is_not_added_to(measured, tmp_path, before):
    path = tmp_path / record.RATE
    record.write(path, measured.model_copy(update={"code": before}))
    with pytest.raises(UsageError, match=r"another code.*--output"):
        record.resume(path, measured.model_copy(update={"code": "b" * 64}))


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
    text = render(stored)
    assert "| 2/s | `sage_attn` |" in text
    assert "SAGE_ATTN_VARIANT=int8-fp16" in text
    assert len(svgs(figures.drawings(stored))) == 1
