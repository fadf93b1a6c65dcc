"""Rows, ratios, verdicts and limits of a record: pure functions on made-up numbers."""

import pytest

from sage_eval.probes.rate.record import ArmRecord
from sage_eval.probes.rate.summary import behind, limit, summarise
from tests.probes.rate.made_up import BASE, FAST, answers, block, paced


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
        ([True, None, True, False], 4.0, 8.0, []),
        ([True, None, False], 1.0, 4.0, [2.0]),
        ([False, True], None, 1.0, []),
        ([None], None, None, [1.0]),
        ([True], 1.0, None, []),
        ([], None, None, []),
    ],
)
def test_the_limit_is_the_highest_rate_kept_up_with_below_those_fallen_behind_at(verdicts, knee, fell, unsure):
    rows = [found(2.0**place, kept) for place, kept in enumerate(verdicts)]
    limits = limit([*rows, found(None, None)])
    assert (limits["knee"], limits["fell"], limits["open"]) == (knee, fell, unsure)
    assert (limits["done"], limits["input_rate"]) == (3.0, 300.0)


def test_without_all_at_once_there_is_no_throughput_to_tell():
    assert limit([found(1.0, True)])["done"] is None


@pytest.mark.parametrize(
    ("slopes", "kept", "growth"),
    [((0.0, 0.01), True, 0.01), ((0.2, 0.0, 0.0), False, 0.2), ((0.0, 0.08), None, 0.08)],
)
def test_of_several_repeats_the_worst_counts(measured, slopes, kept, growth):
    measured.blocks = paced(*slopes)
    [only] = summarise(measured)["rows"]
    assert only["kept"] is kept
    assert only["growth"] == pytest.approx(growth)


@pytest.mark.parametrize(
    ("slope", "late", "kept"), [(0.0, 1.1, True), (0.0, 1.3, None), (0.3, 1.3, False), (0.08, 1.3, None)]
)
def test_who_is_sent_less_than_the_rate_is_not_said_to_keep_up_with_it(measured, slope, late, kept):
    """A generator may be late by 2 % of its 60 s; who falls behind a late one falls behind the rate, too."""
    measured.blocks = paced(slope, late=late)
    [only] = summarise(measured)["rows"]
    assert only["kept"] is kept


def test_sent_and_growth_are_of_what_a_late_generator_really_sent(measured):
    measured.blocks = paced(0.1, late=5.9)  # 59 gaps of 1.1 s
    [only] = summarise(measured)["rows"]
    assert only["sent"] == pytest.approx(1 / 1.1)
    assert only["growth"] == pytest.approx(0.1 / 1.1)
