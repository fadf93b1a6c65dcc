"""Two real engines side by side: measured, cut short and taken up again. Random weights, two layers."""

import json

import pytest

from sage_eval.attention.source import source_hash
from sage_eval.cli import main
from sage_eval.probes.serving import record
from sage_eval.probes.serving.record import Cell
from sage_eval.probes.serving.run import bench
from sage_eval.runs.files import write_json

EXACT, QUANTISED = "sage_attn:variant=exact", "sage_attn"
LENGTHS = (64, 256)


@pytest.fixture(scope="module")
def model(reference_model, tmp_path_factory):
    """The reference model's configuration with two layers and short sequences, and no weights."""
    folder = tmp_path_factory.mktemp("shape")
    config = json.loads((reference_model / "config.json").read_text())
    write_json(folder / "config.json", config | {"num_hidden_layers": 2, "max_position_embeddings": 320})
    return folder


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    """Record, folder, and what was said meanwhile."""
    output, said = tmp_path_factory.mktemp("runs") / "bench", []
    found, folder = bench(
        "serving", str(model), f"{EXACT},{QUANTISED}", lengths=LENGTHS, batches=(2,), packed_tokens=128,
        decode_context=32, decode_steps=9, mixed=2, seconds=1.0, resident=2, output=output, say=said.append,
    )  # fmt: skip
    return found, folder, said


@pytest.mark.slow
@pytest.mark.engine
def test_every_cell_has_both_arms_taking_turns(measured):
    found, _, said = measured
    assert {arm.error for arm in found.arms.values()} == {None}, said
    assert [block.cell.name for block in found.blocks] == [
        "prefill/64",
        "prefill/256",
        "packed/64",
        "decode/2",
        "mixed/2",
    ]
    for block in found.blocks:
        assert block.interleaved
        assert set(block.results) == {EXACT, QUANTISED}
        assert all(0 < seconds < 60 for result in block.results.values() for seconds in result.seconds)


@pytest.mark.slow
@pytest.mark.engine
def test_each_arm_ran_what_it_was_asked_to(measured):
    found, _, _ = measured
    kernels = {name: {kernel.partition("/")[2] for kernel in arm.coverage} for name, arm in found.arms.items()}
    assert kernels[EXACT] != kernels[QUANTISED]
    assert not any("exact" in kernel for kernel in kernels[QUANTISED])
    engines = [arm.engine for arm in found.arms.values()]
    assert [engine["attention_backend"] for engine in engines] == ["sage_attn", "sage_attn"]
    assert {engine["load_format"] for engine in engines} == {"dummy"}


@pytest.mark.slow
@pytest.mark.engine
def test_a_profile_says_whose_the_time_was(measured):
    found, _, _ = measured
    cells = [Cell(kind="prefill", size=64), Cell(kind="prefill", size=256), Cell(kind="decode", size=2)]
    assert [(p.arm, p.cell) for p in found.profiles] == [(arm, cell) for arm in (EXACT, QUANTISED) for cell in cells]
    for profile in found.profiles:
        parts = profile.times.seconds
        # The model's two layers have all four, and a run of tens of milliseconds is no longer than a second.
        assert all(0 < parts[part] < 1 for part in ("attention", "products", "other", "idle")), profile
        assert profile.times.by == "launch"
        assert sum(kernel.seconds for kernel in profile.times.kernels) <= parts["attention"] * 1.0001
    shares = {(p.arm, p.cell.name): p.times.seconds["products"] / p.times.seconds["attention"] for p in found.profiles}
    # Quantising in PyTorch takes several times as long as the attention itself of such short prompts.
    assert shares[QUANTISED, "decode/2"] < shares[EXACT, "decode/2"]


@pytest.mark.slow
@pytest.mark.engine
def test_a_profile_is_of_one_run_alone(measured):
    found, _, _ = measured
    [times] = [p.times for p in found.profiles if (p.arm, p.cell.name) == (EXACT, "prefill/256")]
    # Two layers, and the plain definition multiplies Q by K and P by V once in each.
    calls = {kernel.calls for kernel in times.kernels if kernel.name in ("aten::bmm", "aten::matmul")}
    assert calls
    assert calls <= {2, 4}


@pytest.mark.slow
@pytest.mark.engine
def test_nothing_is_timed_once_a_profile_was_made(measured):
    _, _, said = measured
    profiles = [place for place, line in enumerate(said) if line.endswith("profiled")]
    timed = [place for place, line in enumerate(said) if " rounds, " in line]
    assert (len(profiles), len(timed)) == (6, 5)
    assert max(timed) < min(profiles)


@pytest.mark.slow
@pytest.mark.engine
def test_memory_comes_from_the_scheduler(measured):
    found, _, _ = measured
    sizes = found.model
    for arm in found.arms.values():
        # The norms' vectors are left out of the estimate.
        assert arm.memory["weights"] == pytest.approx(sizes["weight_bytes"], rel=0.01)
        page = arm.engine["page_size"]
        assert arm.memory["kv_cache"] == (arm.memory["kv_tokens"] + page) * sizes["kv_bytes_per_token"]
    peaks = [result.memory for block in found.blocks for result in block.results.values()]
    assert all(memory["peak_rss"] >= memory["before_rss"] > 50 << 20 for memory in peaks)


@pytest.mark.slow
@pytest.mark.engine
def test_the_file_and_its_rendering_are_what_was_returned(measured, capsys):
    found, folder, _ = measured
    assert record.read(folder / record.SERVING) == found
    assert found.code == source_hash()
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "| 256 | `sage_attn` |" in out
    assert "SageAttention does not shrink it" in out
    assert "## Where the time goes" in out


@pytest.mark.slow
@pytest.mark.engine
def test_a_finished_measurement_starts_no_engine_again(measured, model):
    found, folder, _ = measured
    said = []
    again, _ = bench(
        "serving", str(model), f"{EXACT},{QUANTISED}", lengths=LENGTHS, batches=(2,), packed_tokens=128,
        decode_context=32, decode_steps=9, mixed=2, seconds=1.0, resident=2, output=folder, say=said.append,
    )  # fmt: skip
    assert again.blocks == found.blocks
    assert said == []


@pytest.mark.slow
@pytest.mark.engine
def test_what_is_missing_is_measured_and_an_arm_that_cannot_start_is_noted(measured, model):
    """Last in the module. One engine more: the baseline, beside an arm whose backend is not there."""
    _, folder, _ = measured
    path = folder / record.SERVING
    shorter = record.read(path)
    shorter.blocks = [block for block in shorter.blocks if block.cell.size != 64]
    record.write(path, shorter)
    again, _ = bench(
        "serving", str(model), f"{EXACT},flashinferno", lengths=(64,), batches=(), packed_tokens=128,
        decode_context=32, decode_steps=9, mixed=0, seconds=0.5, resident=2, output=folder,
        model_args={},
    )  # fmt: skip
    assert again.done(EXACT, Cell(kind="prefill", size=64))
    assert "flashinfer" in str(again.arms["flashinferno"].error)
    assert again.arms[EXACT].error is None
    assert not again.done("flashinferno", Cell(kind="prefill", size=64))
    assert [block for block in again.blocks if block.cell.size == 256] == shorter.blocks[:1]
