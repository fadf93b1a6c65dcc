"""Arms under outlier stress: what they are told, the dose-response, and that no verdict rests on them."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage_eval import cli
from sage_eval.calibrate.stress import Stress
from sage_eval.compare import run as runner
from sage_eval.compare.doses import detection_limit
from sage_eval.config import from_sources
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.report import doses as shown
from sage_eval.statistics.estimate import Estimate
from sage_eval.store.comparison import Comparison, Dose
from sage_eval.store.provenance import describe_model
from tests.compare.values import compared, in_this_process, rendered

LM = "tests.compare.lms:PlantedLM"
MARGIN = {"accuracy": 0.05}
DOSES = ("stress=16", "stress=1", "stress=4")
NOTHING = Estimate(0.0, 0.1, -0.2, 0.2, 100, "t")


def checkpoint(output: Path, dose: int, source: str, weights: bytes = b"weights") -> Path:
    """A finished checkpoint as far as the runner looks: the language models of `lms.py` read no weights."""
    folder = output / "stress" / str(dose)
    folder.mkdir(parents=True)
    record = Stress(
        scale=dose, reference_scale=16, source_sha256=source, model_type="llama", pairs=[[[(0, 64)]]], text="a text"
    )
    (folder / "stress.json").write_text(record.model_dump_json())
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture(scope="module")
def planted(tiny, model, tmp_path_factory):
    """`planted(**settings)`: a finished run whose checkpoints were there; its arms are run in this process."""

    def run(**values):
        output = values.pop("output", None) or tmp_path_factory.mktemp("doses") / "run"
        source = describe_model("x", model)["sha256"]
        for name in DOSES:
            if not (output / "stress" / name.removeprefix("stress=")).exists():
                checkpoint(output, int(name.removeprefix("stress=")), source)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "_job", in_this_process)
            tasks = ("tests/compare/tasks/tiny_choice.yaml", "tests/compare/tasks/tiny_perplexity.yaml")
            settings = {"lm": LM, "margin": MARGIN, "tasks": tasks, "output": output, **values}
            return runner.compare(tiny(**settings), argv=["compare", "MODEL"])

    return run


@pytest.fixture(scope="module")
def dosed(planted):
    """A candidate like its baseline; each step of the dose costs 2 % of the answers and 0.02 nats a word."""
    return planted(arms=("repeat", "control", *DOSES), model_args={"stress": 0.02, "noise": 0.002})


def judged(run):
    return {task.task: task for task in run.comparison.verdict.tasks}


def test_an_arm_under_stress_is_the_candidate_on_another_checkpoint(dosed):
    candidate, stressed = (dosed.arms[name].record.spec for name in ("candidate", "stress-16"))
    assert stressed.role == "stress"
    folder = dosed.folder / "stress" / "16"
    assert stressed.model_args == {**candidate.model_args, "pretrained": str(folder)}
    assert stressed.model_hash == describe_model("x", folder)["sha256"] != candidate.model_hash
    same = {"name", "role", "model_args", "model_hash"}
    assert stressed.model_dump(exclude=same) == candidate.model_dump(exclude=same)


def test_the_doses_ascend_and_the_limit_is_the_first_that_is_seen(dosed):
    task = judged(dosed)["tiny_perplexity"]
    assert [(dose.arm, dose.dose, dose.seen) for dose in task.doses] == [
        ("stress-1", 1, False), ("stress-4", 4, True), ("stress-16", 16, True)
    ]  # fmt: skip
    assert [dose.difference.value for dose in task.doses] == pytest.approx([0.0, 0.06, 0.30], abs=0.001)
    assert task.detection_limit == 4


def test_the_limit_is_that_of_the_task(dosed):
    """80 questions show less than 40 texts do: 6 % of the answers is within their margin's noise."""
    assert judged(dosed)["tiny_choice"].detection_limit == 16


def test_a_dose_that_is_seen_is_a_positive_control(dosed):
    def verdict(*names):
        arms = ("baseline", "candidate", "repeat", *names)
        return compared(dosed.manifest, {name: dosed.arms[name] for name in arms}, {}, MARGIN).verdict

    seen = verdict("stress-1", "stress-16")
    assert (seen.verdict, seen.missing) == ("equivalent (blunt)", [])
    assert all("damage seen: stress-16; not seen: stress-1" in task.reason for task in seen.tasks)
    unseen = verdict("stress-1")
    assert {task.verdict for task in unseen.tasks} == {"not established"}


def test_an_unseen_control_is_named_beside_a_dose_that_is_seen(planted):
    run = planted(arms=("control", "stress=16"), model_args={"stress": 0.02, "damage": 0.0})
    task = judged(run)["tiny_perplexity"]
    assert task.detection_limit == 16
    assert task.verdict == "equivalent (blunt)"
    caution = "a loss that one unit in 20 carries is in none of 40 with a probability of 13%"
    assert task.reason.endswith(f"damage seen: stress-16; not seen: control; take care: {caution}")


@pytest.mark.parametrize(
    ("seen", "limit"),
    [([], None), ([0, 0], None), ([0, 1], 4), ([1, 1], 1), ([1, 0], None), ([1, 0, 1], 16), ([0, 1, 1], 4)],
)
def test_the_detection_limit(seen, limit):
    doses = [Dose(arm="", dose=4**i, difference=NOTHING, seen=bool(value)) for i, value in enumerate(seen)]
    assert detection_limit(doses) == limit


def test_the_report_has_a_row_a_task_and_a_column_a_dose(dosed):
    table = shown.table(dosed.comparison)
    assert table.header == ("task", "metric", "control", "× 1", "× 4", "× 16", "detection limit")
    assert [row[-1] for row in table.rows] == ["× 16", "× 4"]
    text = rendered(dosed)
    assert (
        text.index("**Verdict by task**")
        < text.index("**Damaged arms: what the tasks can see**")
        < text.index("**sage_attn against plain")
    )
    assert "nats** (p < 0.001) | × 4 |" in text
    assert "a checkpoint that computes the same function bit for bit" in text


def test_too_few_items_are_not_called_unseen(planted):
    run = planted(arms=("stress=16",), limit=20, model_args={"stress": 0.02})
    assert {row[-1] for row in shown.table(run.comparison).rows} == {"too few items"}


def test_without_damaged_arms_nothing_is_said_of_them(run):
    assert shown.table(run.comparison) is None


def test_the_record_reads_back_and_older_ones_without_doses_too(dosed):
    text = (dosed.folder / "comparison.json").read_text()
    assert Comparison.model_validate_json(text) == dosed.comparison
    old = json.loads(text)
    for task in old["verdict"]["tasks"]:
        del task["doses"], task["detection_limit"]
    assert Comparison.model_validate(old).verdict.tasks[0].doses == []


def copied(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    return folder


def test_a_finished_arm_needs_its_checkpoint_no_more(dosed, planted, tmp_path):
    """Run folders are published without their models; another arm can still be added."""
    folder = copied(dosed, tmp_path)
    before = (folder / "arms/stress-16/arm.json").stat().st_mtime_ns
    shutil.rmtree(folder / "stress" / "16")
    shutil.copytree(dosed.folder / "stress" / "1", folder / "stress" / "16")  # another dose: not the checkpoint
    again = planted(output=folder, arms=("repeat", "control", *DOSES), model_args={"stress": 0.02, "noise": 0.002})
    assert (folder / "arms/stress-16/arm.json").stat().st_mtime_ns == before
    assert again.comparison == dosed.comparison


def test_a_finished_arm_of_another_checkpoint_is_refused(dosed, planted, tmp_path):
    folder = copied(dosed, tmp_path)
    (folder / "stress" / "16" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UsageError, match="holds arm stress-16 of another comparison"):
        planted(output=folder, arms=("repeat", "control", *DOSES), model_args={"stress": 0.02, "noise": 0.002})


def test_stress_does_not_change_the_default_folder(tiny):
    from sage_eval.compare.spec import arms as specs

    plain, stressed = (tiny(arms=names) for names in ((), DOSES))
    assert runner.output_folder(plain, specs(plain, "h", {})) == runner.output_folder(
        stressed, specs(stressed, "h", {})
    )


def test_a_dry_run_counts_the_arms_and_writes_nothing(reference_model, tmp_path):
    result = CliRunner().invoke(
        cli.app,
        ["compare", str(reference_model), "--tasks", "sage_prose", "--limit", "2", "--no-calibrate",
         "--arms", "stress=1,stress=16", "--output", str(tmp_path / "run"), "--dry-run"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 arms" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arm", ["stress=3", "stress=0", "stress=", "stress=-4", "stress=x", "stress=016", "stress=4.0"]
)
def test_a_dose_that_is_no_power_of_two_is_a_usage_error(arm):
    with pytest.raises(UsageError, match="a dose is a power of two, such as stress=16"):
        from_sources({"model": "m", "arms": [arm]}, {})


def test_doses_come_as_a_list():
    assert from_sources({"model": "m", "arms": ["stress=1,stress=16", "stress=16"]}, {}).arms == (
        "stress=1",
        "stress=16",
    )


@pytest.mark.slow
def test_a_model_that_cannot_be_stressed_ends_the_comparison_before_an_arm_is_run(tiny, tmp_path):
    """Made in a process of its own, whose error comes back as it is: `model` has no tokenizer, let alone weights."""
    with pytest.raises(PrerequisiteError, match="no tokenizer at"):
        runner.compare(tiny(output=tmp_path / "run", arms=("stress=16",)))
    assert not list(tmp_path.rglob("*.json"))
