"""Our model, lm-eval's `sglang` and `hf` on the same weights: one command, equal scores."""

import shutil
from pathlib import Path

import pytest

from sage_eval.probes.arms import parse_arms
from sage_eval.probes.scoring import table
from sage_eval.probes.scoring.plan import Plan
from sage_eval.probes.scoring.rate import make_prompts
from sage_eval.probes.scoring.run import bench
from sage_eval.probes.scoring.table import markdown, ratios

TASKS = Path(__file__).resolve().parents[2] / "runs" / "tasks"
CHOICE, NEEDLE, PROSE = (f"{TASKS / name}.yaml" for name in ("tiny_choice", "tiny_needle", "tiny_perplexity"))
pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture(scope="module")
def measured(reference_model, tmp_path_factory):
    plan = Plan(
        model=reference_model, name="reference", parts=["evaluation", "rate"], arms=parse_arms("torch_native"),
        models=["sglang-sage:throughput", "sglang", "vllm", "hf"], tasks={CHOICE: 4, NEEDLE: 2, PROSE: 1}, window=512,
        prompts=12, prompt_tokens=60, rounds=2, modes=["fidelity"], requests=[], model_args={"dtype": "float32"},
    )  # fmt: skip
    return bench(plan, tmp_path_factory.mktemp("scoring"))


def test_all_models_score_the_same_but_the_one_that_is_not_installed(measured):
    assert measured.evaluation["vllm"].absent
    for name in ("sglang-sage:throughput", "sglang"):
        for task in measured.evaluation[name].tasks.values():
            assert task.error is None
            assert task.agreement.reference == "hf"
            assert task.agreement.same_answers == 1.0
            assert (task.agreement.largest_difference or 0) < 0.01
    assert not table.failures(measured)


def test_phases_are_parts_of_the_whole(measured):
    for name in ("sglang-sage:throughput", "sglang", "hf"):
        column = measured.evaluation[name]
        assert column.start_seconds > 0
        for task in column.tasks.values():
            found = task.seconds
            assert found.scoring > 0
            assert found.tokenise + found.scoring + found.after == pytest.approx(found.request, abs=1e-6)


def test_every_task_has_a_ratio_and_the_rate_counts_what_was_computed(measured):
    assert set(ratios(measured)) == {CHOICE, NEEDLE, PROSE}
    [(name, rate)] = measured.rate.items()
    assert (name, rate.error) == ("torch_native/fidelity", None)
    for index, one in enumerate(rate.rounds):
        whole = sum(map(len, make_prompts(12, 60, 8192, seed=index + 1)))
        assert one.scored.computed_tokens == one.plain.computed_tokens == whole
    assert f"{rate.share:.1%}" in markdown(measured)


def test_random_weights_are_evaluated_with_a_tokenizer_alone(reference_model, tmp_path):
    (folder := tmp_path / "random").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference_model / name, folder)
    models = ["sglang-sage:throughput", "sglang", "hf"]
    plan = Plan(
        model=folder, name="random", parts=["evaluation"], arms=parse_arms("torch_native"), models=models,
        tasks={CHOICE: 4}, window=512, prompts=1, prompt_tokens=8, rounds=1, modes=[], requests=[], dummy=True,
        resident=2,
    )  # fmt: skip
    found = bench(plan, tmp_path)
    assert found.evaluation["hf"].absent
    assert not table.failures(found)
    for name in models[:2]:
        assert found.evaluation[name].arguments["load_format"] == "dummy"
        assert found.evaluation[name].tasks[CHOICE].items == 4
        assert found.evaluation[name].tasks[CHOICE].agreement is None
    assert ratios(found)[CHOICE]["sglang-sage:throughput"] > 0
