"""Two real engines side by side: measured, cut short and taken up again. Random weights, two layers."""

import json

import pytest

from sage_eval.cli import main
from sage_eval.measure.serving.instrument import Serving
from sage_eval.measure.serving.plan import ServingPlan
from sage_eval.measure.serving.summary import Served
from sage_eval.store import record as records
from sage_eval.store.files import write_json
from sage_eval.store.source import source_hash
from tests.measure.serving.conftest import blocks

pytestmark = [pytest.mark.slow, pytest.mark.engine]

EXACT, QUANTISED = "sage_attn:variant=exact", "sage_attn"
CELLS = ["prefill/64", "prefill/256", "packed/64", "decode/2", "mixed/2"]
OPTIONS = {
    "arms": f"{EXACT},{QUANTISED}", "lengths": "64,256", "batches": "2", "packed_tokens": 128, "decode_context": 32,
    "decode_steps": 9, "mixed": 2, "seconds": 1.0, "resident": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(reference_model, tmp_path_factory):
    """`run(**options)`: record, folder, and what was said meanwhile, of a model with two layers and no weights."""
    model, output = tmp_path_factory.mktemp("shape"), tmp_path_factory.mktemp("runs") / "bench"
    config = json.loads((reference_model / "config.json").read_text())
    write_json(model / "config.json", config | {"num_hidden_layers": 2, "max_position_embeddings": 320})

    def measured(**options):
        said = []
        plan = ServingPlan(model=str(model), output=output, **OPTIONS | options)
        return *Serving().measure(plan, say=said.append), said

    return measured


@pytest.fixture(scope="module")
def measured(run):
    return run()


def test_every_cell_has_both_arms_taking_turns(measured):
    found, _, said = measured
    assert {arm.error for arm in found.arms.values()} == {None}, said
    assert blocks(found) == [(cell, [QUANTISED, EXACT]) for cell in CELLS]
    assert all(0 < seconds < 60 for row in found.rows for seconds in row.seconds)


def test_each_arm_ran_its_own_kernels(measured):
    found, _, _ = measured
    kernels = {name: {kernel.partition("/")[2] for kernel in arm.coverage} for name, arm in found.arms.items()}
    assert kernels[EXACT] != kernels[QUANTISED]
    assert not any("exact" in kernel for kernel in kernels[QUANTISED])
    engines = [arm.engine for arm in found.arms.values()]
    assert [engine["attention_backend"] for engine in engines] == ["sage_attn", "sage_attn"]
    assert {engine["load_format"] for engine in engines} == {"dummy"}


def test_profile_says_where_the_time_went(measured):
    found, _, _ = measured
    profiles = {(row.arm, row.cell): row.profile for row in found.rows if row.profile}
    cells = ("prefill/64", "prefill/256", "decode/2")
    assert profiles.keys() == {(arm, cell) for arm in (EXACT, QUANTISED) for cell in cells}
    for profile in profiles.values():
        # The model's two layers have all four, and a run of tens of milliseconds is no longer than a second.
        assert all(0 < profile.seconds[part] < 1 for part in ("attention", "products", "other", "idle")), profile
        assert profile.by == "launch"
        assert sum(kernel.seconds for kernel in profile.kernels) <= profile.seconds["attention"] * 1.0001
    # One run: the plain definition multiplies Q by K and P by V once in each of two layers.
    kernels = profiles[EXACT, "prefill/256"].kernels
    calls = {kernel.calls for kernel in kernels if kernel.name in ("aten::bmm", "aten::matmul")}
    assert calls
    assert calls <= {2, 4}


def test_nothing_is_timed_once_a_profile_was_made(measured):
    _, _, said = measured
    profiles = [place for place, line in enumerate(said) if line.endswith("profiled")]
    timed = [place for place, line in enumerate(said) if " rounds, " in line]
    assert (len(profiles), len(timed)) == (6, 5)
    assert max(timed) < min(profiles)


def test_memory_comes_from_the_scheduler(measured):
    found, _, _ = measured
    sizes = found.provenance.model
    for arm in found.arms.values():
        # The norms' vectors are left out of the estimate.
        assert arm.memory["weights"] == pytest.approx(sizes["weight_bytes"], rel=0.01)
        page = arm.engine["page_size"]
        assert arm.memory["kv_cache"] == (arm.memory["kv_tokens"] + page) * sizes["kv_bytes_per_token"]
    assert all(row.memory["peak_rss"] >= row.memory["before_rss"] > 50 << 20 for row in found.rows)


def test_record_and_its_report_are_what_was_returned(measured, capsys):
    found, folder, _ = measured
    assert records.read(Served, folder / "serving.json", "serving") == found
    assert found.provenance.code == source_hash()
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "| 256 | sage_attn |" in out
    assert "SageAttention does not shrink it" in out
    assert "Where the time goes" in out


def test_finished_measurement_starts_no_engine_again(measured, run):
    again, _, said = run()
    assert again.rows == measured[0].rows
    assert said == []


def test_missing_cell_is_measured_and_an_arm_that_cannot_start_is_noted(measured, run):
    """Last in the module. One engine more: the baseline, beside an arm whose backend is not there."""
    path = measured[1] / "serving.json"
    shorter = records.read(Served, path, "serving")
    shorter.rows = [row for row in shorter.rows if row.cell != "prefill/64"]
    records.write(path, shorter)
    again, _, _ = run(arms=f"{EXACT},flashinferno", lengths="64", batches="", mixed=0, profile=0, seconds=0.5)
    assert again.rows[: len(shorter.rows)] == shorter.rows
    assert blocks(again)[len(CELLS) - 1 :] == [("prefill/64", [EXACT])]
    assert "flashinfer" in str(again.arms["flashinferno"].error)
    assert again.arms[EXACT].error is None
