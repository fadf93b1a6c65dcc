"""The record as people see it, and records of schema 1: pure functions, no engine."""

import re
from pathlib import Path

import pytest

from sage_eval.errors import DataError
from sage_eval.measure.serving.instrument import Memory, Serving
from sage_eval.measure.serving.memory import PEAK, SAME_CACHE
from sage_eval.measure.serving.summary import Served, compared, counted, nearest, quantiles
from sage_eval.report.measurements import text
from sage_eval.store import record as records
from sage_eval.store.files import read_json, write_json
from sage_eval.store.record import ArmEntry
from tests.measure.serving.conftest import empty

BASE, FAST = "fa3", "sage_attn+fa3"
STORED = Path(__file__).parent / "stored" / "schema_1.json"


def block(number, cell, **seconds):
    size = int(cell.partition("/")[2])
    requests = size if cell.startswith("decode") else 1
    names = {"base": BASE, "fast": FAST, "triton": "triton"}
    return [
        Served(arm=names[arm], cell=cell, block=number, requests=requests, tokens=size, seconds=found)
        for arm, found in seconds.items()
    ]


@pytest.fixture
def measured():
    """Three prompt lengths; the candidate is 2, 1.25 and 1.5 times as fast."""
    why = "one run would take about 40 s"
    rows = [
        *block(0, "prefill/1024", base=[0.04, 0.05, 0.06], fast=[0.02, 0.025, 0.03]),
        *block(1, "prefill/8192", base=[1.0], fast=[0.8]),
        Served(arm="triton", cell="prefill/8192", block=1, requests=1, tokens=8192, skipped=why),
        *block(2, "prefill/32768", base=[3.0] * 40, fast=[2.0] * 40),
        *block(3, "decode/8", base=[0.016], fast=[0.02]),
    ]
    memory = {"weights": 16 << 20, "kv_cache": 1001 * 2048, "kv_tokens": 1000}
    arms = {name: ArmEntry(role="floor", arguments={}, memory=memory) for name in (BASE, FAST)}
    return empty({"name": "m"}, BASE, arms=arms | {"triton": ArmEntry(role="floor", arguments={})}, rows=rows)


def render(record, instrument=Serving):
    return text(instrument().view(record))


def shown(record, arm, cell):
    [row] = [row for row in counted(record) if (row.arm, row.cell) == (arm, cell)]
    return row


def test_a_page_begins_with_the_speed_of_each_arm_over_the_size(measured):
    [svg] = Serving().view(measured).figures
    assert svg.name == "serving-speed"
    texts = re.findall(r">([^<>]*)</text>", svg.text)
    assert {"1,024", "8,192", "32,768", "prefill: input tokens", FAST} <= set(texts)
    assert "decode: sequences" not in texts  # one size is no line


def test_summary_takes_the_length_nearest_to_each_class(measured):
    found = nearest([row for row in counted(measured) if row.arm == FAST])
    assert {name: (row.work.size, compared(measured, row)[0].value) for name, row in found.items()} == {
        "small": (1024, 2.0), "medium": (8192, 1.25), "large": (32768, 1.5),
    }  # fmt: skip


def test_arm_measured_without_the_baseline_is_compared_but_not_paired(measured):
    measured.rows += block(4, "prefill/1024", triton=[0.1])
    ratio, base = compared(measured, shown(measured, "triton", "prefill/1024"))
    assert (ratio.value, ratio.interval, base) == (0.5, "not interleaved", 0.05)


def test_ratio_has_the_baselines_time_beside_it_that_it_follows_from(measured):
    """The baseline ran beside one arm after the other, and its row is of the last time."""
    measured.rows += block(4, "prefill/1024", base=[0.3, 0.3, 0.1], triton=[0.2, 0.2])
    assert quantiles(shown(measured, BASE, "prefill/1024"))[1] == 0.3
    for arm, expected in ((FAST, 0.05), ("triton", 0.3)):
        row = shown(measured, arm, "prefill/1024")
        ratio, base = compared(measured, row)
        assert base == expected
        assert ratio.value == pytest.approx(base / quantiles(row)[1])


def test_row_of_an_arm_is_of_the_block_with_most_rounds_beside_the_baseline(measured):
    measured.rows += block(4, "prefill/32768", base=[5.0] * 2, fast=[5.0] * 2)
    measured.rows += block(5, "prefill/32768", fast=[5.0] * 99)
    assert {len(row.seconds) for row in counted(measured) if row.work.size == 32768} == {40}


def test_tokens_per_second_are_of_what_the_seconds_computed():
    common = {"arm": "a", "block": 0, "seconds": [1.0]}
    assert Served(cell="prefill/64", requests=1, tokens=64, **common).computed == 64
    assert Served(cell="packed/64", requests=4, tokens=64, **common).computed == 256
    assert Served(cell="decode/8", requests=8, tokens=64, **common).computed == 8
    assert Served(cell="mixed/2", requests=2, tokens=900, new_tokens=100, **common).computed == 1000


def test_quadratic_part_is_shown_only_where_one_was_fitted(measured):
    measured.rows += [*block(4, "prefill/16384", base=[2.0]), *block(5, "prefill/24576", base=[3.0])]
    lines = [line for line in render(measured).splitlines() if line.startswith("| 8,192 |")]
    assert lines[0].endswith("% |")
    assert lines[1].endswith("| 1 | – |")


def test_tables_show_each_cell_and_what_was_skipped(measured):
    found = render(measured)
    assert "| 1,024 | sage_attn+fa3 | 25.00 (22.00–28.00) | 40,960 | 2.000 (few rounds) of 50.00 | 3 |" in found
    row = "| 32,768 | sage_attn+fa3 | 2,000.00 (2,000.00–2,000.00) | 16,384 | 1.500 [1.500, 1.500] of 3,000.00 | 40 |"
    assert row in found
    assert "| 8 | sage_attn+fa3 | 20.00 (20.00–20.00) | 400 | 0.800 (one round) of 16.00 | 1 |" in found
    assert "- `triton` at 8,192: not measured, one run would take about 40 s" in found
    assert "small (1k) 2.00 × (unsteady), medium (8k) 1.25 ×, large (32k) 1.50 [1.50, 1.50] ×" in found
    assert "| fa3 | 16.0 | 2.0 | 1,000 | 2,048 | – |" in found
    assert SAME_CACHE in found


def test_cell_whose_times_spread_is_called_unsteady(measured):
    note = "p80 more than 25% above p20 in some arm: 1,024. The host may be the reason"
    assert note in render(measured)  # the baseline's 0.04 to 0.06 s
    measured.rows[:2] = block(0, "prefill/1024", base=[0.050, 0.051, 0.052], fast=[0.02, 0.021, 0.022])
    assert "nsteady" not in render(measured)


def test_smaller_cache_is_not_called_the_same(measured):
    measured.arms[FAST].memory = measured.arms[FAST].memory | {"kv_cache": 1001 * 1024}
    assert SAME_CACHE not in render(measured)


def test_transient_memory_is_the_peak_above_rest_and_shown_beside_the_baselines(measured):
    measured.rows[0].memory = {"before_allocated": 100 << 20, "peak_allocated": 110 << 20}
    measured.rows[1].memory = {"before_allocated": 200 << 20, "peak_allocated": 213 << 20}
    measured.rows.append(measured.rows[0].model_copy(update={"block": 7}))
    found = render(measured)
    assert "| 1,024 | sage_attn+fa3 | 213.0 | – | 13.0 | +3.0 |" in found
    assert found.count("| 1,024 | fa3 | 110.0 | – | 10.0 | – |") == 1
    assert PEAK in found


def test_record_of_memory_alone_has_no_table_of_times(measured):
    for row in (row for row in measured.rows if not row.skipped):
        row.seconds, row.memory = [], {"before_rss": 1 << 20, "peak_rss": 3 << 20}
    found = render(measured)
    assert "| 1,024 | sage_attn+fa3 | 3.0 | 2.0 | +0.0 |" in found
    assert "- `triton` at 8,192: not measured, one run would take about 40 s" in found
    assert "tokens/s" not in found
    assert "perf_counter" not in found


def test_record_of_schema_1_is_read_and_shown_with_its_numbers():
    stored = records.read(Served, STORED, "serving")
    assert [row.cell for row in stored.rows if row.arm == "sage_attn"] == [
        "prefill/64", "prefill/256", "packed/64", "decode/1", "decode/2",
    ]  # fmt: skip
    found = render(stored)
    for old in read_json(STORED)["summary"]["rows"]:
        row = shown(stored, old["arm"], f"{old['kind']}/{old['size']}")
        assert quantiles(row) == tuple(old["seconds"].values())
        assert row.computed / quantiles(row)[1] == old["tokens_per_second"]
        ratio = compared(stored, row)
        assert (old["ratio"] and old["ratio"]["value"]) == (ratio and ratio[0].value)
    assert "| 64 | sage_attn | 1,376.21 (1,099.93–1,652.48) | 47 | 0.525 (few rounds) of 722.96 | 2 |" in found
    assert "| 64 × 2 | sage_attn | 1,767.63" in found


def test_profile_of_schema_1_belongs_to_the_last_row_of_its_arm_and_cell(tmp_path):
    value = read_json(STORED)
    value["blocks"].append(value["blocks"][0])
    times = {"seconds": {"attention": 1.0, "idle": 0.5}, "by": "name", "guessed": 0.1, "kernels": []}
    value["profiles"] = [
        {"arm": "sage_attn", "cell": {"kind": "prefill", "size": 64}, "times": times, "error": None},
        {"arm": "sage_attn", "cell": {"kind": "decode", "size": 1}, "times": None, "error": "no kernel"},
    ]
    write_json(tmp_path / "serving.json", value)
    rows = [row for row in records.read(Served, tmp_path / "serving.json", "serving").rows if row.profile]
    assert [(row.cell, row.block, row.profile.error) for row in rows] == [
        ("decode/1", 3, "no kernel"), ("prefill/64", 5, None),
    ]  # fmt: skip
    assert rows[1].profile.seconds == times["seconds"]


def test_memory_record_of_schema_1_has_runs_but_no_times(tmp_path):
    value = read_json(STORED) | {"kind": "memory"}
    value["blocks"] = value["blocks"][:2]
    value["blocks"][0]["skipped"] = {"triton": "too long"}
    write_json(tmp_path / "memory.json", value)
    record = records.read(Served, tmp_path / "memory.json", "memory")
    first = value["blocks"][0]["results"]["sage_attn"]
    assert [(row.arm, row.seconds, row.skipped) for row in record.rows[:3]] == [
        ("sage_attn:variant=exact", [], None), ("sage_attn", [], None), ("triton", [], "too long"),
    ]  # fmt: skip
    assert record.rows[1].warm_up == first["seconds"][0]
    assert "| 256 | sage_attn | 1,294.5 | 1.2 | −0.1 |" in render(record, Memory)
    write_json(tmp_path / "memory.json", {**value, "blocks": [{}]})
    with pytest.raises(DataError, match="damaged"):
        records.read(Served, tmp_path / "memory.json", "memory")
