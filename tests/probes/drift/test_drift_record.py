"""The record as it is read, printed and drawn; and the command's refusals."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from sage_eval.cli import app
from sage_eval.errors import DataError
from sage_eval.probes.drift.figures import figures
from sage_eval.probes.drift.lines import OTHER, REPEAT
from sage_eval.probes.drift.record import DRIFT, DriftRecord, read
from sage_eval.probes.drift.table import markdown, text
from sage_eval.runs.files import write_json

STORED = Path(__file__).parent / "stored" / "schema_1.json"


@pytest.fixture(scope="module")
def record():
    return read(STORED)


def without(record, *arms):
    return record.model_copy(update={"series": [series for series in record.series if series.arm not in arms]})


def test_a_record_survives_its_file(record, tmp_path):
    write_json(tmp_path / DRIFT, record.model_dump(mode="json"))
    assert read(tmp_path / DRIFT) == record


def test_another_version_and_a_damaged_file_are_refused(tmp_path):
    (tmp_path / DRIFT).write_text('{"schema_version": 2}')
    with pytest.raises(DataError, match="schema_version 2"):
        read(tmp_path / DRIFT)
    (tmp_path / DRIFT).write_text('{"schema_version": 1, "created": 3}')
    with pytest.raises(DataError, match="created"):
        read(tmp_path / DRIFT)


def test_the_share_is_the_other_makes_distance_over_the_arms(record):
    for way in ("forced", "free"):
        own, other = (record.find(way, name).mean_l2 for name in ("sage_attn", OTHER))
        assert record.share(way, "sage_attn") == other / own
    assert record.share("free", REPEAT) is None  # which has no drift to take a share of
    assert without(record, OTHER).share("free", "sage_attn") is None


def test_the_summary_has_a_line_an_arm_and_way_and_the_numbers_of_the_record(record):
    rows = [line.split("|")[1:-1] for line in markdown(record).splitlines() if line.startswith("| sage_attn |")]
    assert [row[1].strip() for row in rows] == ["same", "own"]
    for way, row in zip(("forced", "free"), rows, strict=True):
        series = record.find(way, "sage_attn")
        worst = max(series.layers, key=lambda layer: layer.relative_l2)
        assert float(row[2]) == pytest.approx(series.mean_l2, rel=0.1)
        assert row[3].strip().endswith(f"(layer {worst.layer})")
        assert row[8].strip() == f"{100 * record.share(way, 'sage_attn'):.0f} %"


def test_markdown_is_a_section_whose_tables_are_rectangular(record):
    section = markdown(record)
    assert section.startswith("## Activation drift\n")
    assert section.count("<details>") == section.count("</details>") == len(record.arms)
    tables = [block.splitlines() for block in section.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + len(record.arms)
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert len(tables[1]) == 2 + 2 * 8  # a head, and each layer in both ways


def test_text_has_a_row_a_layer(record):
    lines = text(record).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    assert [line.split()[0] for line in lines[start + 1 : start + 9]] == list("01234567")


def test_what_was_not_measured_is_said_and_left_out(record):
    arm = record.arms[1].model_copy(update={"error": "no room", "forced_error": "no kernel"})
    broken = without(record, "sage_attn").model_copy(update={"arms": [record.arms[0], arm, record.arms[2]]})
    for rendered in (text(broken), markdown(broken)):
        assert "sage_attn, same inputs: not measured: no kernel" in rendered
        assert "sage_attn, own inputs: not measured: no room" in rendered
    assert all(">sage_attn<" not in svg for svg in figures(broken).values())


def test_torchs_own_kernel_may_be_missing(record):
    alone = without(record, OTHER).model_copy(update={"other_error": "no kernel here"})
    for rendered in (text(alone), markdown(alone)):
        assert "torch SDPA: not measured: no kernel here" in rendered
        assert f", {OTHER}: in the baseline's engine" not in rendered
    assert f"{OTHER}: in the baseline's engine" in text(record)


def test_an_engine_that_differs_from_its_kernel_in_the_first_layer_is_said(record):
    own = [arm.model_copy(update={"shared": False}) for arm in record.arms]
    alone = record.model_copy(update={"arms": own})
    assert "in the first layer" not in text(alone)
    free = record.find("free", "sage_attn")
    first = free.layers[0].model_copy(update={"relative_l2": 0.5})
    moved = free.model_copy(update={"layers": [first, *free.layers[1:]]})
    other = alone.model_copy(update={"series": [moved if s == free else s for s in record.series]})
    assert "sage_attn: in the first layer, whose inputs are the same, its engine is 0.5 from the baseline" in text(
        other
    )


def test_the_figures_have_a_line_an_arm_and_are_the_same_every_time(record):
    drawn = figures(record)
    assert list(drawn) == ["drift-same-inputs", "drift-own-inputs", "drift-keys"]
    for name in list(drawn)[:2]:
        words = {element.text for element in ElementTree.fromstring(drawn[name]).iter() if element.text}
        assert {"sage_attn", "sage_attn:variant=int4-fp16", OTHER} <= words
        assert REPEAT not in words  # it is zero, and the axis logarithmic
    assert figures(record) == drawn


def test_a_record_of_the_baseline_alone_is_drawn_and_printed(record):
    alone = record.model_copy(update={"arms": record.arms[:1]})
    alone = without(alone, *(arm.name for arm in record.arms[1:]))
    assert "sage_attn" not in text(alone).split("\n", 1)[1]
    assert DriftRecord.model_validate_json(alone.model_dump_json()) == alone
    assert len(figures(alone)) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arms", "torch_native,sage_attn", "--model-args", "tp_size=2"], "tp_size=2"),
        (["--arms", "torch_native,torch_native"], "named twice"),
        (["--arms", "torch_native,sage_attn:variant=int3"], "variant"),
        (["--arms", "torch_native", "--model-args", "dtype"], "--model-args"),
    ],
)
def test_the_command_refuses_before_an_engine_starts(options, said, reference_model):
    result = CliRunner().invoke(app, ["probe", "drift", str(reference_model), *options])
    assert result.exit_code != 0
    assert said in str(result.exception) + result.output
