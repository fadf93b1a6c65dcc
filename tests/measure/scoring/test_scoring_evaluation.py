"""Our model, lm-eval's `sglang` and `hf` on the same weights: one command, equal scores."""

import shutil
from pathlib import Path

import pytest

from sage_eval.measure.scoring.instrument import Scoring, ScoringPlan
from sage_eval.measure.scoring.rows import agreements
from sage_eval.measure.scoring.view import bits, failures, ratios, share, tasks
from sage_eval.measure.scoring.worker import make_prompts
from sage_eval.report.measurements import text

TASKS = Path(__file__).resolve().parents[2] / "compare" / "tasks"
CHOICE, NEEDLE, PROSE = (f"{TASKS / name}.yaml" for name in ("tiny_choice", "tiny_needle", "tiny_perplexity"))
pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture(scope="module")
def plan(reference_model, tmp_path_factory):
    return ScoringPlan(
        model=str(reference_model), arms="torch_native", parts="evaluation,rate",
        models="sglang-sage:throughput,sglang,vllm,hf", tasks={CHOICE: 4, NEEDLE: 2, PROSE: 1}, window=512,
        prompts=12, prompt_tokens=60, rounds=2, model_args="dtype=float32", output=tmp_path_factory.mktemp("scoring"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(plan):
    return Scoring().measure(plan)[0]


def test_all_models_score_the_same_but_the_one_that_is_not_installed(measured):
    assert measured.arms["vllm"].engine == {"absent": "vllm not installed"}
    assert not failures(measured)
    for found in tasks(measured).values():
        assert set(found) == {"sglang-sage:throughput", "sglang", "hf"}
        compared = agreements(found, "hf", bits(measured))
        assert set(compared) == {"sglang-sage:throughput", "sglang"}
        for agreement in compared.values():
            assert (agreement.reference, agreement.turned) == ("hf", 0)
            assert (agreement.mean_difference or 0) < 0.01


def test_phases_are_parts_of_the_whole(measured):
    for found in tasks(measured).values():
        for name, task in found.items():
            assert measured.arms[name].start_seconds > 0
            seconds = task.seconds
            assert seconds.scoring > 0
            assert seconds.tokenise + seconds.scoring + seconds.after == pytest.approx(seconds.request, abs=1e-6)


def test_every_task_has_a_ratio_and_the_rate_counts_what_was_computed(measured):
    assert list(tasks(measured)) == [f"evaluation/{CHOICE}=4", f"evaluation/{NEEDLE}=2", f"evaluation/{PROSE}=1"]
    assert all(set(ratios(found)) == set(found) for found in tasks(measured).values())
    rounds = [row.round for row in measured.rows if row.arm == "torch_native/fidelity"]
    for index, one in enumerate(rounds):
        whole = sum(map(len, make_prompts(12, 60, 8192, seed=index + 1)))
        assert one.scored.computed_tokens == one.plain.computed_tokens == whole
    assert f"{share(rounds):.1%}" in text(Scoring().view(measured))


def test_new_task_is_added_and_compared_with_the_answers_in_the_record(measured, plan):
    more = plan.model_copy(update={"tasks": {CHOICE: 4, PROSE: 2}, "models": ("sglang-sage:throughput", "hf")})
    record, _ = Scoring().measure(more)
    assert record.rows[: len(measured.rows)] == measured.rows
    assert [(row.arm, row.cell) for row in record.rows[len(measured.rows) :]] == [
        ("sglang-sage:throughput", f"evaluation/{PROSE}=2"), ("hf", f"evaluation/{PROSE}=2"),
    ]  # fmt: skip
    assert not failures(record)


def test_random_weights_are_evaluated_with_a_tokenizer_alone(reference_model, tmp_path):
    (folder := tmp_path / "random").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference_model / name, folder)
    models = ["sglang-sage:throughput", "sglang"]
    plan = ScoringPlan(
        model=str(folder), arms="torch_native", parts="evaluation", models=[*models, "hf"], tasks={CHOICE: 4},
        window=512, output=tmp_path / "run",
    )  # fmt: skip
    record, _ = Scoring().measure(plan)
    assert "absent" in record.arms["hf"].engine
    assert not failures(record)
    assert all(record.arms[name].arguments["load_format"] == "dummy" for name in models)
    [found] = tasks(record).values()
    assert {name: task.items for name, task in found.items()} == dict.fromkeys(models, 4)
    assert ratios(found)["sglang-sage:throughput"] > 0
    assert "| reference |" not in text(Scoring().view(record))
