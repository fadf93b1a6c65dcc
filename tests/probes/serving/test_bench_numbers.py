"""The record, its summary and its table: pure functions, no engine."""

import json
from pathlib import Path

import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.probes.serving import record
from sage_eval.probes.serving.memory_table import PEAK, SAME_CACHE
from sage_eval.probes.serving.record import ArmRecord, Block, Cell, Record, Result
from sage_eval.probes.serving.summary import summarise
from sage_eval.probes.serving.table import render

BASE, FAST = "fa3", "sage_attn+fa3"


def block(size, base, fast, *, kind="prefill", **more):
    results = {BASE: Result(seconds=base), FAST: Result(seconds=fast)}
    values = {"requests": 1, "tokens": size, "results": results, "interleaved": True} | more
    return Block(cell=Cell(kind=kind, size=size), **values)


@pytest.fixture
def measured():
    """Three prompt lengths; the candidate is 2, 1.25 and 1.5 times as fast."""
    blocks = [
        block(1024, [0.04, 0.05, 0.06], [0.02, 0.025, 0.03]),
        block(8192, [1.0], [0.8], skipped={"triton": "one run would take about 40 s"}),
        block(32768, [3.0] * 40, [2.0] * 40),
        block(8, [0.016], [0.02], kind="decode", requests=8),
    ]
    memory = {"weights": 16 << 20, "kv_cache": 1001 * 2048, "kv_tokens": 1000}
    arms = {name: ArmRecord(arguments={}, memory=memory) for name in (BASE, FAST)}
    made = Record(
        kind="serving", created="2026-01-01T00:00:00+00:00", command="sage-eval bench serving", baseline=BASE,
        model={"name": "m"}, settings={"engine": {"load_format": "dummy"}}, versions={"sglang": "0.5.17"},
        host={"cpu": "some CPU"}, devices=[], arms=arms, blocks=blocks,
    )  # fmt: skip
    made.summary = summarise(made)
    return made


def test_a_record_is_resumed_with_its_results(measured, tmp_path):
    path = tmp_path / record.SERVING
    record.write(path, measured)
    again = record.resume(path, measured.model_copy(update={"blocks": [], "arms": {}, "command": "again"}))
    assert again.blocks == measured.blocks
    assert again.command == f"{measured.command}\nagain"
    assert again.done(FAST, Cell(kind="prefill", size=8192))
    assert not again.done("triton", Cell(kind="prefill", size=8192))


def test_a_file_in_which_nothing_was_measured_is_begun_anew(measured, tmp_path):
    path = tmp_path / record.SERVING
    empty = measured.model_copy(update={"blocks": [], "settings": {"engine": {"load_format": "mistyped"}}})
    record.write(path, empty)
    assert record.resume(path, measured).settings == measured.settings


def test_another_machine_does_not_go_into_the_same_file(measured, tmp_path):
    path = tmp_path / record.SERVING
    record.write(path, measured)
    with pytest.raises(UsageError, match="cpu: 'some CPU', now 'another'"):
        record.resume(path, measured.model_copy(update={"host": {"cpu": "another"}}))


def test_another_model_does_not_go_into_the_same_file(measured, tmp_path):
    path = tmp_path / record.SERVING
    record.write(path, measured)
    with pytest.raises(UsageError, match=r"model \(name: 'm', now 'n'\).*--output"):
        record.resume(path, measured.model_copy(update={"model": {"name": "n"}}))


@pytest.mark.parametrize("before", ["a" * 64, None])
def test_what_other_code_measured_or_nobody_knows_which_is_not_added_to(measured, tmp_path, before):
    path = tmp_path / record.SERVING
    record.write(path, measured.model_copy(update={"code": before}))
    with pytest.raises(UsageError, match=r"another code.*--output"):
        record.resume(path, measured.model_copy(update={"code": "b" * 64}))


def test_what_an_earlier_version_did_not_note_of_the_model_is_no_difference(measured, tmp_path):
    path = tmp_path / record.SERVING
    record.write(path, measured)
    more = {"name": "m", "max_position_embeddings": 4096}
    assert record.resume(path, measured.model_copy(update={"model": more})).model == more


def test_a_file_of_a_later_version_is_refused(measured, tmp_path):
    path = tmp_path / record.SERVING
    path.write_text(json.dumps(measured.model_dump(mode="json") | {"schema_version": 2}))
    with pytest.raises(DataError, match="update it"):
        record.read(path)


def test_the_glance_takes_the_length_nearest_to_each_class(measured):
    glance = measured.summary["glance"][FAST]
    assert {name: (x["size"], x["ratio"]) for name, x in glance.items()} == {
        "small": (1024, 2.0),
        "medium": (8192, 1.25),
        "large": (32768, 1.5),
    }


def test_an_arm_measured_without_the_baseline_is_compared_but_not_paired(measured):
    measured.arms["triton"] = ArmRecord(arguments={})
    measured.blocks.append(block(1024, [], []).model_copy(update={"results": {"triton": Result(seconds=[0.1])}}))
    [row] = [row for row in summarise(measured)["rows"] if row["arm"] == "triton"]
    assert row["ratio"]["value"] == pytest.approx(0.5)
    assert row["ratio"]["method"] == "not interleaved"
    assert row["ratio"]["baseline"] == 0.05


def test_a_ratio_has_the_baselines_time_beside_it_that_it_follows_from(measured):
    """The baseline ran beside one arm after the other, and its row is of the last time."""
    measured.blocks.append(block(1024, [0.3, 0.3, 0.1], [0.2, 0.2]).model_copy(deep=True))
    measured.blocks[-1].results["triton"] = measured.blocks[-1].results.pop(FAST)
    measured.arms["triton"] = ArmRecord(arguments={})
    rows = {row["arm"]: row for row in summarise(measured)["rows"] if row["size"] == 1024}
    assert rows[BASE]["seconds"]["p50"] == 0.3
    for arm, base in ((FAST, 0.05), ("triton", 0.3)):
        found = rows[arm]["ratio"]
        assert found["baseline"] == base
        assert found["value"] == pytest.approx(base / rows[arm]["seconds"]["p50"])


def test_an_arms_row_is_of_the_block_with_most_rounds(measured):
    measured.blocks.append(block(32768, [5.0] * 2, [5.0] * 2))
    rows = [row for row in summarise(measured)["rows"] if row["size"] == 32768]
    assert [row["rounds"] for row in rows] == [40, 40]


def test_a_quadratic_part_is_shown_only_where_one_was_fitted(measured):
    measured.blocks[2:2] = [block(n, [n / 8192], [n / 8192]) for n in (16384, 24576)]
    measured.blocks[2].results.pop(FAST)
    measured.blocks[3].results.pop(FAST)
    measured.summary = summarise(measured)
    lines = [line for line in render(measured).splitlines() if line.startswith("| 8,192 |")]
    assert lines[0].endswith("% |")
    assert lines[1].endswith("| 1 | – |")


def test_the_table_shows_each_cell_and_what_was_left_out(measured):
    text = render(measured)
    assert "| 1,024 | `sage_attn+fa3` | 25.00 (22.00–28.00) | 40,960 | 2.000 [2.000, 2.000]* of 50.00 | 3 |" in text
    assert (
        "| 32,768 | `sage_attn+fa3` | 2,000.00 (2,000.00–2,000.00) | 16,384 | 1.500 [1.500, 1.500] of 3,000.00 | 40 |"
        in text
    )
    assert "| 8 | `sage_attn+fa3` | 20.00 (20.00–20.00) | 400 | 0.800" in text
    assert "`triton` at 8,192: not measured, one run would take about 40 s" in text
    assert "small (1k) 2.00 [2.00, 2.00]* × (unsteady), medium (8k) 1.25 ×, large (32k) 1.50 [1.50, 1.50] ×" in text
    assert "| `fa3` | 16.0 | 2.0 | 1,000 | 2,048 | – |" in text
    assert SAME_CACHE in text


def test_times_that_the_host_decides_are_called_unsteady(measured):
    note = "p80 more than 25% above p20 in some arm: 1,024. The host may be the reason"
    assert note in render(measured)  # the baseline's 0.04 to 0.06 s
    measured.blocks[0] = block(1024, [0.050, 0.051, 0.052], [0.02, 0.021, 0.022])
    measured.summary = summarise(measured)
    assert "nsteady" not in render(measured)


def test_a_smaller_cache_is_not_called_the_same(measured):
    measured.arms[FAST].memory = measured.arms[FAST].memory | {"kv_cache": 1001 * 1024}
    assert SAME_CACHE not in render(measured)


def test_transient_memory_is_the_peak_above_rest_and_shown_beside_the_baselines(measured):
    measured.blocks[0].results[BASE].memory = {"before_allocated": 100 << 20, "peak_allocated": 110 << 20}
    measured.blocks[0].results[FAST].memory = {"before_allocated": 200 << 20, "peak_allocated": 213 << 20}
    text = render(measured)
    assert "| 1,024 | `sage_attn+fa3` | 213.0 | – | 13.0 | +3.0 |" in text
    assert PEAK in text


def test_the_baseline_that_ran_beside_several_arms_has_one_row_of_memory_a_length(measured):
    block = measured.blocks[0]
    block.results[BASE].memory = {"before_allocated": 100 << 20, "peak_allocated": 110 << 20}
    measured.blocks.append(block.model_copy(deep=True))
    assert render(measured).count("| 1,024 | `fa3` | 110.0 | – | 10.0 | – |") == 1


def test_a_record_of_an_earlier_version_is_read_and_shown():
    stored = record.read(Path(__file__).parent / "stored" / "schema_1.json")
    assert len(stored.blocks) == 5
    rows = summarise(stored)["rows"]
    for row in rows:
        if row["ratio"]:
            del row["ratio"]["baseline"]  # it was not noted then
    assert stored.summary["rows"] == rows
    assert "| 256 | `sage_attn` |" in render(stored)
