"""What is measured, with which engine settings, and how its time is predicted: pure functions."""

import numpy as np
import pytest

from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.serving.mix import lengths
from sage_eval.probes.serving.plan import make_plan
from sage_eval.probes.serving.scaling import predict, predict_mix, quadratic_share
from sage_eval.probes.shape import write_shape

BASE, FAST = "fa3", "sage_attn+fa3"


@pytest.fixture
def model(tmp_path):
    return write_shape("llama-3.1-8b", tmp_path / "shape")


@pytest.fixture
def plan(model):
    arms = parse_arms(f"{BASE},triton,{FAST}")
    return make_plan(model, arms, None, lengths=(1024, 100_000), batches=(1, 8), mixed=3)


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


def test_the_time_of_a_mix_is_that_of_its_prompts_and_of_its_longest_answer():
    prefill = {1000: 1.0, 2000: 2.0}
    assert predict_mix([(1000, 3), (2000, 5), (10, 1)], prefill, {2: 0.1, 4: 0.2}) == pytest.approx(4.0 + 5 * 0.15)
    assert predict_mix([(1000, 3)], prefill, {}) == 1.0
    assert predict_mix([(1000, 3)], {}, {1: 1.0}) is None
