"""The stored record as it is read, shown and drawn; and the command's refusals."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from sage_eval.cli import main
from sage_eval.measure.drift.instrument import DriftProbe
from sage_eval.measure.drift.lines import OTHER, OWN, SAME
from sage_eval.measure.drift.record import Drift, Latest, mean_l2
from sage_eval.measure.drift.view import REPEAT
from sage_eval.report.measurements import text
from sage_eval.store import record as records

STORED = Path(__file__).parent / "stored" / "schema_1.json"


@pytest.fixture(scope="module")
def record():
    return records.read(Drift, STORED, "drift")


def shown(record):
    return text(DriftProbe().view(record))


def figures(record):
    return {svg.name: svg.text for svg in DriftProbe().view(record).figures}


def without(record, *arms):
    return record.model_copy(update={"rows": [row for row in record.rows if row.arm not in arms]})


def changed(record, cell, arm, **update):
    """The record with other values in one row."""
    rows = [row.model_copy(update=update) if (row.cell, row.arm) == (cell, arm) else row for row in record.rows]
    return record.model_copy(update={"rows": rows})


def test_share_is_the_other_makes_distance_over_the_arms(record):
    found = Latest(record)
    for cell in (SAME, OWN):
        own, other = (mean_l2(found.layers(cell, name)) for name in ("sage_attn", OTHER))
        assert found.share(cell, "sage_attn") == other / own
    assert found.share(OWN, found.baseline) is None  # which has no drift to take a share of
    assert Latest(without(record, OTHER)).share(OWN, "sage_attn") is None


def test_summary_has_one_row_per_arm_and_cell_with_the_numbers_of_the_record(record):
    found = Latest(record)
    rows = [line.split("|")[1:-1] for line in shown(record).splitlines() if line.startswith("| sage_attn |")]
    assert [row[1].strip() for row in rows] == ["same", "own"]
    for cell, row in zip((SAME, OWN), rows, strict=True):
        layers = found.layers(cell, "sage_attn")
        worst = max(layers, key=lambda layer: layer.relative_l2)
        assert float(row[2]) == pytest.approx(mean_l2(layers), rel=0.1)
        assert row[3].strip().endswith(f"(layer {worst.layer})")
        assert row[8].strip() == f"{100 * found.share(cell, 'sage_attn'):.0f} %"


def test_baselines_second_run_is_called_repeat(record):
    assert f"| {REPEAT} | own | 0 | 0 (layer 0) |" in shown(record)


def test_layers_are_folded_for_each_arm_and_left_out_on_a_terminal(record):
    page = shown(record)
    assert page.count("<details>") == page.count("</details>") == len(record.arms) + 1
    terminal = text(DriftProbe().view(record), folded=False)
    assert "<details>" not in terminal


def test_what_was_not_measured_is_said_and_left_out(record):
    arms = {**record.arms, "sage_attn": record.arms["sage_attn"].model_copy(update={"error": "no room"})}
    broken = without(record, "sage_attn").model_copy(update={"arms": arms})
    broken.rows.append(Drift(arm="sage_attn", cell=SAME, block=0, error="no kernel"))
    assert "sage_attn, same inputs: not measured: no kernel" in shown(broken)
    assert "sage_attn, own inputs: not measured: no room" in shown(broken)
    assert all(">sage_attn<" not in svg for svg in figures(broken).values())


def test_torchs_own_kernel_may_be_missing(record):
    alone = without(record, OTHER)
    alone.rows.append(Drift(arm=OTHER, cell=SAME, block=0, error="no kernel here"))
    assert "torch SDPA, same inputs: not measured: no kernel here" in shown(alone)
    assert f", {OTHER}: in the baseline's engine" not in shown(alone)
    assert f"{OTHER}: in the baseline's engine" in shown(record)


def test_engine_that_differs_from_its_kernel_in_the_first_layer_is_said(record):
    alone = changed(record, OWN, "sage_attn", shared=False)
    assert "in the first layer" not in shown(alone)
    first, *rest = Latest(record).layers(OWN, "sage_attn")
    other = changed(alone, OWN, "sage_attn", layers=[first.model_copy(update={"relative_l2": 0.5}), *rest])
    assert "sage_attn: in the first layer, whose inputs are the same, its engine is 0.5 from the baseline" in shown(
        other
    )


def test_latest_row_of_an_arm_is_shown(record):
    again = record.model_copy(update={"rows": [*record.rows, Drift(arm="sage_attn", cell=SAME, block=1, error="late")]})
    assert "sage_attn, same inputs: not measured: late" in shown(again)


def test_figures_have_a_line_per_arm_and_are_the_same_every_time(record):
    drawn = figures(record)
    assert list(drawn) == ["drift-same-inputs", "drift-own-inputs"]
    for name in drawn:
        words = {element.text for element in ElementTree.fromstring(drawn[name]).iter() if element.text}
        assert {"sage_attn", "sage_attn:variant=int4-fp16", OTHER} <= words
        assert "torch_native" not in words  # its second run is zero, and the axis logarithmic
    assert figures(record) == drawn


def test_record_of_the_baseline_alone_is_drawn_and_shown(record):
    arms = {record.baseline: record.arms[record.baseline]}
    alone = without(record, *(name for name in record.arms if name != record.baseline))
    alone = alone.model_copy(update={"arms": arms})
    assert "| sage_attn" not in shown(alone)
    assert len(figures(alone)) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arms", "torch_native,sage_attn", "--model-args", "tp_size=2"], "tp_size=2"),
        (["--arms", "torch_native,sage_attn", "--model-args", "mode=throughput"], "whole ones"),
        (["--arms", "torch_native,sage_attn", "--model-args", "disable_cuda_graph=false"], "inside a graph"),
        (["--arms", "torch_native,torch_native"], "named twice"),
        (["--arms", "torch_native,sage_attn:variant=int3"], "variant"),
        (["--arms", "torch_native", "--model-args", "dtype"], "--model-args"),
        (["--arms", "torch_native", "--scratch", "/no/such/folder"], "--scratch"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_an_engine_starts(options, said, reference_model, capsys):
    assert main(["probe", "drift", str(reference_model), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
