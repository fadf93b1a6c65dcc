"""The record's file, its table and its figure, of made-up numbers."""

import json
from pathlib import Path

import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.probes.rate import figures, record
from sage_eval.probes.rate.summary import summarise
from sage_eval.probes.rate.table import render
from sage_eval.report.figures.style import svgs
from tests.probes.rate.made_up import FAST, paced

STORED = Path(__file__).parent / "stored" / "schema_1.json"


def test_a_limit_that_short_runs_cannot_tell_is_undecided(measured):
    assert "- `fa3`: all at once, 2.31 requests/s (231 input tokens/s); undecided at 1/s" in render(measured)


def test_the_table_begins_with_the_limits(measured):
    measured.blocks += paced(0.0)
    measured.blocks[-1].rate = 2.0
    text = render(measured)
    assert text.index("## Limits") < text.index("## Throughput") < text.index("## Latency, ms")
    assert "- `fa3`: all at once, 2.31 requests/s (231 input tokens/s); kept up with 2/s" in text
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
    for field, what, changed in (
        ("settings", "settings", measured.settings | {"seed": 1}),
        ("devices", "machine", [{"name": "another"}]),
    ):
        with pytest.raises(UsageError, match=rf"another {what}.*--output"):
            record.resume(path, measured.model_copy(update={field: changed}))


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
