"""Ratios, prediction, plans, the record and its table: pure functions, no engine."""

import json
from pathlib import Path

import numpy as np
import pytest

from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.serving import record
from sage_eval.probes.serving.memory_table import SAME_CACHE
from sage_eval.probes.serving.mix import lengths
from sage_eval.probes.serving.plan import make_plan
from sage_eval.probes.serving.record import ArmRecord, Block, Cell, Record, Result
from sage_eval.probes.serving.scaling import predict, predict_mix, quadratic_share
from sage_eval.probes.serving.shape import SHAPES, describe, write_shape
from sage_eval.probes.serving.summary import ratio, summarise
from sage_eval.probes.serving.table import render

BASE, FAST = "fa3", "sage_attn+fa3"


@pytest.fixture
def model(tmp_path):
    return write_shape("llama-3.1-8b", tmp_path / "shape")


@pytest.fixture
def plan(model):
    arms = parse_arms(f"{BASE},triton,{FAST}")
    return make_plan(model, arms, None, lengths=(1024, 100_000), batches=(1, 8), mixed=3)


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


def test_a_ratio_of_many_rounds_has_a_bootstrap_interval():
    rng = np.random.default_rng(0)
    candidate = 1 + 0.05 * rng.standard_normal(60)
    found = ratio(list(2 * candidate * (1 + 0.01 * rng.standard_normal(60))), list(candidate), paired=True)
    assert found["low"] < 2.0 < found["high"]
    # Paired: what both rounds share (5 %) does not widen it.
    assert found["high"] - found["low"] < 0.1
    assert found["method"].startswith("bootstrap")


def test_a_ratio_of_few_rounds_says_that_it_is_a_range():
    found = ratio([2.0, 3.0, 4.0], [1.0, 1.0, 1.0], paired=True)
    assert (found["value"], found["low"], found["high"]) == (3.0, 2.0, 4.0)
    assert found["method"] == "range of 3 rounds"


def test_rounds_that_one_arm_lacks_are_left_out():
    assert ratio([2.0, 2.0, 90.0], [1.0, 1.0], paired=True)["value"] == 2.0


def test_runs_one_after_the_other_get_no_interval():
    found = ratio([2.0] * 50, [1.0] * 40, paired=False)
    assert (found["value"], found["low"], found["method"]) == (2.0, None, "not interleaved")


def test_a_linear_and_a_quadratic_part_are_told_apart():
    time = lambda n: 2e-5 * n + 1e-9 * n * n  # noqa: E731
    known = {n: time(n) for n in (128, 4096, 32768)}
    assert predict(known, 131072) == pytest.approx(time(131072))
    assert predict(known, 4096) == known[4096]


def test_noise_in_short_prompts_does_not_predict_less_than_was_seen():
    assert predict({128: 0.05, 1024: 0.06}, 4096) == pytest.approx(0.24)
    assert predict({128: 0.05, 1024: 0.04}, 1100) >= 0.04
    assert predict({4096: 1.0}, 1024) is None


def test_the_quadratic_share_is_found_again_from_noisy_times():
    rng = np.random.default_rng(0)
    parts = lambda n: (0.01, 2e-5 * n, 1e-9 * n * n)  # noqa: E731
    lengths = (128, 1024, 4096, 8192, 32768, 131072)
    found = quadratic_share({n: sum(parts(n)) * (1 + 0.01 * rng.standard_normal()) for n in lengths})
    assert found[131072] == pytest.approx(parts(131072)[2] / sum(parts(131072)), abs=0.02)
    assert found[128] < 0.01


def test_three_lengths_are_too_few_for_a_quadratic_share():
    assert quadratic_share({1: 1.0, 2: 2.0, 4: 4.0}) == {}


def test_what_is_cheap_is_measured_first(plan):
    assert [cell.name for cell in plan.cells()] == [
        "prefill/1024", "packed/1024", "decode/1", "decode/8", "mixed/3", "prefill/100000",
    ]  # fmt: skip


def test_the_cache_holds_the_largest_cell_and_the_engine_is_told_so(plan):
    arguments = plan.engine_arguments()
    assert arguments["max_length"] == 100_001
    assert arguments["max_total_tokens"] >= 100_001 + 2048
    assert arguments["max_running_requests"] == 16
    assert arguments["cuda_graph_max_bs_decode"] == 8


def test_the_cache_holds_a_whole_mix_and_so_do_the_graphs(plan):
    mixed = plan.model_copy(update={"mixed": 64})
    arguments = mixed.engine_arguments()
    tokens = sum(map(sum, lengths(64)))
    assert tokens > 101_000
    assert tokens + 2048 <= arguments["max_total_tokens"] < tokens + 2048 + 1024
    assert (arguments["max_running_requests"], arguments["cuda_graph_max_bs_decode"]) == (64, 64)
    assert mixed.settings() == plan.settings()


def test_a_mix_is_log_uniform_and_the_same_every_time():
    prompts, answers = np.array(lengths(4000)).T
    assert lengths(5) == lengths(5)
    assert (prompts.min(), prompts.max()) == (pytest.approx(128, abs=2), pytest.approx(8192, rel=0.01))
    assert (answers.min(), answers.max()) == (16, 256)
    assert np.median(prompts) == pytest.approx(1024, rel=0.1)
    assert np.median(answers) == pytest.approx(64, rel=0.1)
    assert abs(np.corrcoef(prompts, answers)[0, 1]) < 0.05


def test_a_mix_is_no_longer_than_the_model():
    assert max(prompt + answer for prompt, answer in lengths(64, 512)) == 512


def test_the_time_of_a_mix_is_that_of_its_prompts_and_of_its_longest_answer():
    prefill = {1000: 1.0, 2000: 2.0}
    assert predict_mix([(1000, 3), (2000, 5), (10, 1)], prefill, {2: 0.1, 4: 0.2}) == pytest.approx(4.0 + 5 * 0.15)
    assert predict_mix([(1000, 3)], prefill, {}) == 1.0
    assert predict_mix([(1000, 3)], {}, {1: 1.0}) is None


def test_graph_arguments_of_the_user_are_not_added_to(model):
    plan = make_plan(
        model, parse_arms(BASE), None, lengths=(64,), batches=(1,), mixed=0, model_args={"disable_cuda_graph": True}
    )
    assert "cuda_graph_max_bs_decode" not in plan.engine_arguments()


def test_more_lengths_go_into_the_same_file_and_other_settings_do_not(model, plan):
    longer = plan.model_copy(update={"lengths": (1024, 131_072)})
    assert longer.settings() == plan.settings()
    assert plan.model_copy(update={"chunk": 2048}).settings() != plan.settings()


def test_the_baseline_is_in_every_group(plan):
    def names(resident):
        return [[arm.name for arm in group] for group in plan.model_copy(update={"resident": resident}).groups({})]

    assert names(3) == [[BASE, "triton", FAST]]
    assert names(2) == [[BASE, "triton"], [BASE, FAST]]
    assert names(1) == [[BASE], ["triton"], [FAST]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "flashinfer", "lengths": (1,)}, "none of the arms"),
        ({"baseline": None}, "nothing to measure"),
        ({"baseline": None, "batches": (0,)}, "nothing to measure"),
    ],
)
def test_plans_that_cannot_be_are_refused(model, arguments, message):
    with pytest.raises(UsageError, match=message):
        make_plan(model, parse_arms(BASE), **arguments)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(PrerequisiteError, match="--shape"):
        make_plan(tmp_path, parse_arms(BASE), None, lengths=(1,))


def test_the_shape_of_llama_8b_has_its_parameters_and_its_cache(model):
    sizes = describe(model)
    # 8,030,261,248 parameters are published; the norms (2 · 32 + 1 vectors of 4096) are not counted here.
    assert sizes["weight_bytes"] == 2 * (8_030_261_248 - 65 * 4096)
    assert sizes["kv_bytes_per_token"] == 131_072


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_configurations_that_transformers_reads(name, tmp_path):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(write_shape(name, tmp_path))
    assert config.num_attention_heads * config.head_dim == config.hidden_size


def test_a_record_is_resumed_with_its_results(measured, tmp_path):
    path = tmp_path / record.SERVING
    record.write(path, measured)
    again = record.resume(path, measured.model_copy(update={"blocks": [], "arms": {}, "command": "again"}))
    assert again.blocks == measured.blocks
    assert again.command == "again"
    assert again.done(FAST, Cell(kind="prefill", size=8192))
    assert not again.done("triton", Cell(kind="prefill", size=8192))


def test_another_model_does_not_go_into_the_same_file(measured, tmp_path):
    path = tmp_path / record.SERVING
    record.write(path, measured)
    with pytest.raises(UsageError, match=r"model \(name: 'm', now 'n'\).*--output"):
        record.resume(path, measured.model_copy(update={"model": {"name": "n"}}))


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


def test_the_table_shows_each_cell_and_what_was_left_out(measured):
    text = render(measured)
    assert "| 1,024 | `sage_attn+fa3` | 25.00 (22.00–28.00) | 40,960 | 2.000 [2.000, 2.000]* | 3 |" in text
    assert "| 32,768 | `sage_attn+fa3` | 2,000.00 (2,000.00–2,000.00) | 16,384 | 1.500 [1.500, 1.500] | 40 |" in text
    assert "| 8 | `sage_attn+fa3` | 20.00 (20.00–20.00) | 400 | 0.800" in text
    assert "`triton` at 8,192: not measured, one run would take about 40 s" in text
    assert "small (1k) 2.00 ×, medium (8k) 1.25 ×, large (32k) 1.50 ×" in text
    assert "| `fa3` | 16.0 | 2.0 | 1,000 | 2,048 | – |" in text
    assert SAME_CACHE in text


def test_a_smaller_cache_is_not_called_the_same(measured):
    measured.arms[FAST].memory = measured.arms[FAST].memory | {"kv_cache": 1001 * 1024}
    assert SAME_CACHE not in render(measured)


def test_transient_memory_is_the_peak_above_rest_and_shown_beside_the_baselines(measured):
    measured.blocks[0].results[BASE].memory = {"before_allocated": 100 << 20, "peak_allocated": 110 << 20}
    measured.blocks[0].results[FAST].memory = {"before_allocated": 200 << 20, "peak_allocated": 213 << 20}
    assert "| 1,024 | `sage_attn+fa3` | 213.0 | – | 13.0 | +3.0 |" in render(measured)


def test_the_baseline_that_ran_beside_several_arms_has_one_row_of_memory_a_length(measured):
    block = measured.blocks[0]
    block.results[BASE].memory = {"before_allocated": 100 << 20, "peak_allocated": 110 << 20}
    measured.blocks.append(block.model_copy(deep=True))
    assert render(measured).count("| 1,024 | `fa3` | 110.0 | – | 10.0 | – |") == 1


def test_a_record_of_an_earlier_version_is_read_and_shown():
    stored = record.read(Path(__file__).parent / "stored" / "schema_1.json")
    assert len(stored.blocks) == 5
    assert stored.summary["rows"] == summarise(stored)["rows"]
    assert "| 256 | `sage_attn` |" in render(stored)
