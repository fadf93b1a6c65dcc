"""Summaries, verdicts, limits and the view of a record: made-up numbers, and what earlier versions stored."""

from pathlib import Path

import pytest

from sage_eval.measure.rate.instrument import Rate
from sage_eval.measure.rate.summary import Run, Summary, limit, quantiles, summarise
from sage_eval.report.measurements import text
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry
from tests.measure.rate.made_up import BASE, FAST, paced, run

STORED = Path(__file__).parent / "stored" / "schema_1.json"
PUBLISHED = Path(__file__).parents[3] / "results" / "serving-h100" / "rate.json"


def summary(record, arm, rate) -> Summary:
    [found] = [one for one in summarise(record) if (one.arm, one.rate) == (arm, rate)]
    return found


def shown(record):
    return text(Rate().view(record))


def test_summary_is_over_the_requests_of_all_repeats(measured):
    found = summary(measured, FAST, 1.0)
    assert (found.requests, found.repeats) == (6, 2)
    assert found.ttft["p50"] == pytest.approx(0.15)
    assert found.latency["mean"] == pytest.approx(0.25)
    assert (found.sent, found.done, found.input_rate) == (1.0, pytest.approx(1.2), pytest.approx(120))
    at_once = summary(measured, FAST, None)
    assert (at_once.sent, at_once.kept_up, at_once.done) == (None, None, pytest.approx(3.0))


def test_ratio_is_of_medians_and_two_repeats_have_no_range(measured):
    found = summary(measured, FAST, 1.0).ratio
    assert (found.value, found.low, found.high) == (pytest.approx(0.25 / 0.15), None, None)
    assert summary(measured, FAST, None).ratio.interval == "one round"
    assert summary(measured, BASE, 1.0).ratio is None


def test_servers_one_after_the_other_have_a_ratio_without_a_range(measured):
    measured.arms["triton"] = ArmEntry(arguments={}, role="floor")
    measured.rows += [run("triton", 1.0, repeat, [0.5] * 3, block=20 + repeat) for repeat in (0, 1)]
    found = summary(measured, "triton", 1.0).ratio
    assert (found.value, found.low, found.interval) == (pytest.approx(0.5), None, "not interleaved")


def test_without_a_baseline_at_that_rate_there_is_no_ratio(measured):
    measured.rows.append(run(FAST, 2.0, 0, [0.5] * 3, block=20))
    assert summary(measured, FAST, 2.0).ratio is None


def test_of_two_blocks_the_one_beside_the_baseline_counts(measured):
    before = summarise(measured)
    measured.rows.append(run(FAST, 1.0, 0, [9.0] * 3, block=20))
    assert summarise(measured) == before


@pytest.mark.parametrize(
    ("slopes", "kept_up", "growth"),
    [((0.0, 0.01), True, 0.01), ((0.2, 0.0, 0.0), False, 0.2), ((0.0, 0.08), None, 0.08)],
)
def test_worst_repeat_counts(measured, slopes, kept_up, growth):
    measured.rows = paced(*slopes)
    [only] = summarise(measured)
    assert (only.kept_up, only.growth) == (kept_up, pytest.approx(growth))


@pytest.mark.parametrize(("slope", "late", "kept_up"), [(0.0, 1.1, True), (0.0, 1.3, None), (0.3, 1.3, False)])
def test_who_is_sent_less_than_the_rate_is_not_said_to_keep_up(measured, slope, late, kept_up):
    """A load generator may be late by 2 % of its 59 s; who falls behind a late one falls behind the rate, too."""
    measured.rows = paced(slope, late=late)
    assert summarise(measured)[0].kept_up is kept_up


@pytest.mark.parametrize(
    ("verdicts", "kept_up", "fell_behind", "undecided"),
    [
        ([True, True, False], 2.0, 4.0, []),
        ([True, False, True], 1.0, 2.0, []),
        ([True, None, True, False], 4.0, 8.0, []),
        ([True, None, False], 1.0, 4.0, [2.0]),
        ([False, True], None, 1.0, []),
        ([None], None, None, [1.0]),
        ([], None, None, []),
    ],
)
def test_limit_is_the_highest_rate_kept_up_with_below_those_fallen_behind_at(
    measured, verdicts, kept_up, fell_behind, undecided
):
    at_once = summary(measured, FAST, None)
    rows = [Summary(**{**vars(at_once), "rate": 2.0**place, "kept_up": kept}) for place, kept in enumerate(verdicts)]
    found = limit([*rows, at_once])
    assert (found.kept_up, found.fell_behind, found.undecided) == (kept_up, fell_behind, undecided)
    assert found.done == pytest.approx(3.0)
    assert limit(rows).done is None


@pytest.mark.parametrize(
    ("count", "names"),
    [(0, []), (99, ["mean", "p50"]), (100, ["mean", "p50", "p95"]), (500, ["mean", "p50", "p95", "p99"])],
)
def test_quantile_needs_values_beyond_it(count, names):
    assert list(quantiles([float(value) for value in range(count)])) == names


def test_view_begins_with_the_limits_and_has_every_number(measured):
    measured.rows.append(run(BASE, 2.0, 0, [0.1] * 60, block=20))
    found = shown(measured)
    assert found.index("### Limits") < found.index("### Throughput") < found.index("### Latency, ms")
    assert "- `fa3`: all at once, 2.31 requests/s (231 input tokens/s); kept up with 2/s" in found
    assert "| 1/s | `sage_attn+fa3` | 6 | 2 | 1 | +0 | – | 1.2 | 120 | 12 |" in found
    assert (
        "| 1/s | `sage_attn+fa3` | 2 | 150.0 | – | – | 150.0 | 1.667 (few repeats, no interval) | 10.0 | – | 10.0 "
        "| 250.0 | – | 250.0 |" in found
    )
    assert "| all at once | `sage_attn+fa3` | 1 | 600.0 | – | – | 600.0 | 1.333 (one repeat, no interval) |" in found


def test_view_names_arms_that_failed_fell_behind_or_are_undecided(measured):
    assert "undecided at 1/s" in shown(measured)
    measured.arms[FAST].error = "arm sage_attn+fa3: 1 of 3 requests failed"
    measured.rows = paced(0.5)
    assert "**sage_attn+fa3 failed:** arm sage_attn+fa3: 1 of 3 requests failed" in shown(measured)
    assert "- `fa3`: fell behind at 1/s" in shown(measured)


def test_answers_of_one_token_have_no_time_between_tokens(measured):
    for row in measured.rows:
        row.itl = {}
    assert "(few repeats, no interval) | – | – | – | 250.0" in shown(measured)


@pytest.mark.parametrize(
    ("settings", "words", "absent"),
    [
        ({}, "and with nothing else", "freeze_gc"),
        ({"rehearsal": 0.0}, "`/freeze_gc`", "Before its first"),
        ({"rehearsal": 5.0}, "Before its first measured run at a rate it answered 5 s of other", "nothing else"),
    ],
)
def test_view_says_how_servers_were_warmed_up(measured, settings, words, absent):
    measured.settings |= settings
    assert words in shown(measured)
    assert absent not in shown(measured)


def test_figure_has_a_line_per_arm_and_a_place_for_all_at_once(measured):
    [figure] = Rate().view(measured).figures
    assert figure.text.count(">all at once<") == 1
    assert figure.text.count(">sage_attn+fa3<") == 1
    assert figure.description.startswith("Median at 1/s: fa3 250 ms; sage_attn+fa3 150 ms.")
    measured.rows = measured.rows[-2:]
    assert Rate().view(measured).figures == []


def test_stored_record_of_schema_1_has_its_numbers():
    stored = records.read(Run, STORED, "rate")
    assert {row.block for row in stored.rows} == {0, 1, 2, 3}
    assert "| 2/s | `sage_attn` |" in shown(stored)
    assert "SAGE_ATTN_VARIANT=int8-fp16" in shown(stored)


def test_published_record_has_its_numbers():
    """FA3 at 8/s is undecided: the load generator was late in one repeat, and less than the rate was sent."""
    found = shown(records.read(Run, PUBLISHED, "rate"))
    assert "- `sage_attn+fa3`: all at once, 16 requests/s (32,730 input tokens/s); kept up with 14/s" in found
    assert "| 8/s | `fa3` | 400 | 2 | 7.93 | +1 | – | 7.81 | 16,005 | 500 |" in found
    assert "| 14/s | `sage_attn+fa3` | 700 | 2 | 13.8 | +5 | yes | 13.5 | 27,600 | 862 |" in found
    assert "0.886 (few repeats, no interval) | 10.3 | 132.3 | 31.0 | 2,126.3 | 3,655.9 | 2,111.1 |" in found
    assert "at most 0.59 s late" in found
