"""What is measured, with which engine settings, and how its time is predicted: pure functions."""

import inspect

import numpy as np
import pytest

from sage_eval.arms.shape import write_shape
from sage_eval.cli.flags import command, parse
from sage_eval.errors import UsageError
from sage_eval.measure.serving.instrument import Serving
from sage_eval.measure.serving.plan import ServingPlan, mix, predict, predict_mix, quadratic_share

SERVING = Serving()


def plan(**values):
    return parse(ServingPlan, {"lengths": "1024,100000", "batches": "8,1,8", "mixed": 3} | values)


def test_what_is_cheap_is_measured_first():
    assert SERVING.cells(plan()) == [
        "prefill/1024", "packed/1024", "decode/1", "decode/8", "mixed/3", "prefill/100000",
    ]  # fmt: skip
    assert SERVING.cells(plan(memory_only=True)) == ["prefill/1024", "prefill/100000"]


def test_cache_holds_the_largest_cell_and_the_engine_is_told_so():
    arguments = SERVING.arguments(plan())
    assert arguments["max_length"] == 100_001
    assert arguments["max_total_tokens"] >= 100_001 + 2048
    assert arguments["max_running_requests"] == 16
    assert arguments["cuda_graph_max_bs_decode"] == 8


def test_cache_holds_a_whole_mix_and_so_do_the_graphs():
    mixed = plan(mixed=64)
    arguments, tokens = SERVING.arguments(mixed), sum(map(sum, mix(64)))
    assert tokens > 101_000
    assert tokens + 2048 <= arguments["max_total_tokens"] < tokens + 2048 + 1024
    assert (arguments["max_running_requests"], arguments["cuda_graph_max_bs_decode"]) == (64, 64)


def test_memory_alone_needs_no_decode_graphs():
    arguments = SERVING.arguments(plan(memory_only=True, mixed=64))
    assert arguments["disable_decode_cuda_graph"]
    assert arguments["max_total_tokens"] == 102_400


def test_mix_is_log_uniform_and_the_same_every_time():
    prompts, answers = np.array(mix(4000)).T
    assert mix(5) == mix(5)
    assert (prompts.min(), prompts.max()) == (pytest.approx(128, abs=2), pytest.approx(8192, rel=0.01))
    assert (answers.min(), answers.max()) == (16, 256)
    assert np.median(prompts) == pytest.approx(1024, rel=0.1)
    assert np.median(answers) == pytest.approx(64, rel=0.1)
    assert abs(np.corrcoef(prompts, answers)[0, 1]) < 0.05


def test_mix_is_no_longer_than_the_model(tmp_path):
    assert max(prompt + answer for prompt, answer in mix(64, 512)) == 512
    resolved = SERVING.resolve(plan(), write_shape("llama-3.1-8b", tmp_path))
    assert (resolved.positions, resolved.load_format) == (131072, "dummy")


def test_graph_arguments_of_the_user_are_not_added_to():
    assert "cuda_graph_max_bs_decode" not in SERVING.arguments(plan(model_args={"disable_cuda_graph": True}))


def test_more_sizes_go_into_the_same_record_and_other_settings_do_not():
    more = plan(lengths="1024,131072", mixed=64, memory_only=True)
    assert SERVING.settings(more) == SERVING.settings(plan())
    for other in ({"chunk": 2048}, {"decode_steps": 9}, {"seed": 1}, {"model_args": {"dtype": "half"}}):
        assert SERVING.settings(plan(**other)) != SERVING.settings(plan())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lengths": "1k"}, "--lengths '1k': whole numbers of 1 and more"),
        ({"batches": "0,4"}, "--batches '0,4': whole numbers of 1 and more"),
        ({"decode_steps": 2}, "--decode-steps 2: "),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_their_flag(values, message):
    with pytest.raises(UsageError, match=message):
        plan(**values)


def test_what_the_model_decides_has_no_flag():
    flags = inspect.signature(command(ServingPlan, lambda _plan: None)).parameters
    assert flags.keys() == ServingPlan.model_fields.keys() - {"positions"}


def test_plan_without_work_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing to measure"):
        SERVING.check(plan(lengths="", batches="", mixed=0), write_shape("llama-3.1-8b", tmp_path))


def test_linear_and_quadratic_parts_are_told_apart():
    time = lambda n: 2e-5 * n + 1e-9 * n * n  # noqa: E731
    known = {n: time(n) for n in (128, 4096, 32768)}
    assert predict(known, 131072) == pytest.approx(time(131072))
    assert predict(known, 4096) == known[4096]


def test_noise_in_short_prompts_does_not_predict_less_than_was_seen():
    assert predict({128: 0.05, 1024: 0.06}, 4096) == pytest.approx(0.24)
    assert predict({128: 0.05, 1024: 0.04}, 1100) >= 0.04
    assert predict({4096: 1.0}, 1024) is None


def test_quadratic_share_is_found_again_from_noisy_times():
    rng = np.random.default_rng(0)
    parts = lambda n: (0.01, 2e-5 * n, 1e-9 * n * n)  # noqa: E731
    lengths = (128, 1024, 4096, 8192, 32768, 131072)
    found = quadratic_share({n: sum(parts(n)) * (1 + 0.01 * rng.standard_normal()) for n in lengths})
    assert found[131072] == pytest.approx(parts(131072)[2] / sum(parts(131072)), abs=0.02)
    assert found[128] < 0.01


def test_three_lengths_are_too_few_for_a_quadratic_share():
    assert quadratic_share({1: 1.0, 2: 2.0, 4: 4.0}) == {}


def test_time_of_a_mix_is_that_of_its_prompts_and_of_its_longest_answer():
    prefill = {1000: 1.0, 2000: 2.0}
    assert predict_mix([(1000, 3), (2000, 5), (10, 1)], prefill, {2: 0.1, 4: 0.2}) == pytest.approx(4.0 + 5 * 0.15)
    assert predict_mix([(1000, 3)], prefill, {}) == 1.0
    assert predict_mix([(1000, 3)], {}, {1: 1.0}) is None
