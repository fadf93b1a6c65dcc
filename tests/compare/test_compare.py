"""The runner from configuration to run folder, with real child processes and language models that need no engine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sage_eval.arms.worker import GRACE_SECONDS
from sage_eval.compare import run as runner
from sage_eval.compare.run import Quiet, compare, output_folder
from sage_eval.compare.spec import arms
from sage_eval.errors import DataError, EngineError, PrerequisiteError, UsageError
from sage_eval.store import folder as layout
from sage_eval.store import load
from sage_eval.store.lock import lock
from sage_eval.store.provenance import versions
from tests.compare.values import in_this_process


def specs(config):
    return arms(config, "hash", versions())


def test_arms_differ_in_the_backend_and_its_settings_only(tiny):
    config = tiny(model_args={"mem_fraction_static": 0.5}, attention={"variant": "exact"})
    baseline, candidate = (spec.model_dump() for spec in specs(config))
    extra = candidate["model_args"].items() - baseline["model_args"].items()
    assert dict(extra) == {"attention_backend": "sage_attn", **config.attention.model_dump(exclude_none=True)}
    assert baseline["model_args"].items() <= candidate["model_args"].items()
    assert {k: v for k, v in baseline.items() if k not in ("name", "role", "model_args")} == {
        k: v for k, v in candidate.items() if k not in ("name", "role", "model_args")
    }


def test_backend_settings_also_go_with_a_split_backend(tiny):
    baseline, _ = specs(tiny(model_args={"prefill_attention_backend": "sage_attn"}))
    assert baseline.model_args["variant"] == "int8-fp16"


def test_the_fingerprint_forgets_name_and_role_and_nothing_else(tiny):
    first, second = specs(tiny(baseline="sage_attn"))
    assert first.fingerprint() == second.fingerprint()
    prints = {
        spec.fingerprint() for limit in (None, 3) for seed in (1, 2) for spec in specs(tiny(limit=limit, seed=seed))
    }
    assert len(prints) == 8


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lm": "sglang-sage"}, 16),
        ({"lm": "sglang-sage", "top_logprobs": 0}, None),
        ({"lm": "hf"}, None),
        ({"lm": "hf", "top_logprobs": 5}, 5),
        ({"lm": "sglang-sage", "model_args": {"top_logprobs": 3}}, 3),
    ],
)
def test_only_our_own_model_is_told_of_top_logprobs_unasked(tiny, values, told):
    assert {spec.model_args.get("top_logprobs") for spec in specs(tiny(**values))} == {told}


def test_what_the_tasks_read_from_the_environment_is_part_of_the_fingerprint(tiny, monkeypatch):
    before, _ = specs(tiny())
    monkeypatch.setenv("SAGE_EVAL_RETRIEVAL", '{"depths": 2}')
    after, _ = specs(tiny())
    assert before.fingerprint() != after.fingerprint()


def test_what_a_path_leads_to_is_in_the_fingerprint_and_not_the_path(tiny, tmp_path, monkeypatch):
    def of(shift, **values):
        attention = {"smooth_k": "static", "shift": shift}
        return [spec.fingerprint() for spec in specs(tiny(tasks=("wikitext",), attention=attention, **values))]

    for folder, text in (("one", "same"), ("two", "same"), ("three", "other")):
        (tmp_path / folder / "wikitext2").mkdir(parents=True)
        (tmp_path / folder / "wikitext2" / "wiki.test.raw").write_text(text)
        (tmp_path / folder / "shift").write_text(text)
        (tmp_path / folder / "manifest.json").write_text(folder)
    one, two, three = (
        of(model=f"somewhere/{n}", data_dir=tmp_path / n, shift=tmp_path / n / "shift") for n in ("one", "two", "three")
    )
    assert one == two
    assert not set(one) & set(three)
    monkeypatch.chdir(tmp_path)
    assert of(model="one", data_dir=Path("two"), shift=Path("one/shift")) == one
    baseline, other = (of(data_dir=tmp_path / "one", shift=tmp_path / n / "shift") for n in ("one", "three"))
    assert baseline[0] == other[0]
    assert baseline[1] != other[1]


def test_a_finished_run_is_taken_up_from_another_working_directory(tiny, run, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", None)  # an arm that is started now is an error
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    config = tiny(output=folder)
    here = Path.cwd()
    model = shutil.copytree(config.model, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    again = compare(tiny(output=Path("run"), model=str(model), tasks=[str(here / task) for task in config.tasks]))
    assert again.comparison.pairs == run.comparison.pairs


def test_the_default_folder_is_the_same_for_the_same_configuration(tiny):
    names = [output_folder(tiny(limit=limit), specs(tiny(limit=limit))) for limit in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


def test_a_run_folder_has_all_its_files(run):
    names = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    arm = {"spec.json", "log.txt", "results.json.zst", "samples.parquet", "arm.json"}
    assert names == {"manifest.json", "comparison.json", "prompts.jsonl.zst"} | {
        f"arms/{name}/{file}" for name in ("baseline", "candidate") for file in arm
    }


def test_every_sample_refers_to_a_stored_prompt(run):
    for arm in run.arms.values():
        assert len(arm.samples) == 80 + 40 + 60
        assert {sample.prompt for sample in arm.samples} == set(run.prompts)


def test_lm_evals_results_are_kept_as_they_are(run):
    results = run.arms["candidate"].results
    assert results["schema_version"] == 1
    assert results["results"]["tiny_choice"]["acc,none"] == pytest.approx(
        sum(s.metrics["acc"] for s in run.arms["candidate"].samples if s.task == "tiny_choice") / 80
    )


def test_the_folder_does_not_say_where_the_checkout_lies(run):
    checkout = str(Path(__file__).resolve().parents[2])
    published = {path.name: path.read_text() for path in run.folder.rglob("*.json") if path.name != "spec.json"}
    published |= {f"results of {name}": json.dumps(arm.results) for name, arm in run.arms.items()}
    assert len(published) >= 4
    assert [name for name, text in published.items() if f'"{checkout}' in text] == []


def test_a_finished_arm_is_not_run_again(tiny, half, run):
    before = {path: path.stat().st_mtime_ns for path in half.glob("arms/baseline/*")}
    resumed = compare(tiny(output=half))
    assert {path: path.stat().st_mtime_ns for path in half.glob("arms/baseline/*")} == before
    assert resumed.comparison.pairs == run.comparison.pairs


def test_another_configuration_does_not_mix_with_what_is_there(tiny, half):
    with pytest.raises(UsageError, match=r"holds arm baseline of another comparison \(limit: None -> 5\).*--fresh"):
        compare(tiny(output=half, limit=5))
    assert (half / "arms/baseline/arm.json").exists()


def test_fresh_does_not_delete_what_is_no_run(tiny, tmp_path):
    (tmp_path / "arms").mkdir()
    with pytest.raises(UsageError, match="is not a run folder"):
        compare(tiny(output=tmp_path), fresh=True)
    assert (tmp_path / "arms").exists()


def test_an_arm_that_dies_is_one_line_and_the_other_is_kept(tiny, half, monkeypatch):
    monkeypatch.setenv("TEST_FAULT", "sage_attn:kill")
    with pytest.raises(EngineError, match=r"^arm candidate was ended by SIGKILL; out of memory\?.*log\.txt.*to go on$"):
        compare(tiny(output=half), argv=["compare", "M"])
    assert (half / "arms/baseline/arm.json").exists()
    with pytest.raises(DataError, match="unfinished: arm candidate is missing; repeat: sage-eval compare M"):
        load(half)


def test_when_the_baseline_fails_no_other_arm_is_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_FAULT", "plain:kill")
    with pytest.raises(EngineError, match="arm baseline was ended by SIGKILL"):
        compare(tiny(output=tmp_path / "run", candidate=("sage_attn", "other"), calibrate=True))
    assert [path.name for path in (tmp_path / "run/arms").iterdir()] == ["baseline"]


class Told(Quiet):
    """Keeps what it is told of earlier arms."""

    def __init__(self):
        self.lines = []

    def kept(self, name, backend):
        self.lines.append((name, "kept"))

    def again(self, name, why):
        self.lines.append((name, why))


@pytest.mark.parametrize(
    ("damaged", "arm"),
    [("arms/candidate/samples.parquet", "candidate"), ("arms/candidate/results.json.zst", "candidate"),
     ("arms/candidate/arm.json", "candidate"), ("prompts.jsonl.zst", "baseline")],
)  # fmt: skip
@pytest.mark.parametrize("how", ["cut", "missing"])
def test_an_arm_that_lacks_a_part_is_run_again(tiny, run, tmp_path, monkeypatch, damaged, arm, how):
    monkeypatch.setattr(runner, "_job", in_this_process)
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    whole = (folder / damaged).read_bytes()
    if how == "cut":
        (folder / damaged).write_bytes(whole[:-9])
    else:
        (folder / damaged).unlink()
    told = Told()
    again = compare(tiny(output=folder), display=told, argv=["compare", "MODEL"])
    other = "candidate" if arm == "baseline" else "baseline"
    assert (other, "kept") in told.lines
    assert (arm, "kept") not in told.lines
    assert again.comparison.pairs == run.comparison.pairs
    assert load(folder).prompts == run.prompts


def test_the_samples_of_finished_arms_are_read_once(tiny, run, tmp_path, monkeypatch):
    reads = []
    real = layout.parquet.read
    monkeypatch.setattr(layout.parquet, "read", lambda path: reads.append(path.parent.name) or real(path))
    compare(tiny(output=Path(shutil.copytree(run.folder, tmp_path / "run"))), argv=["compare", "MODEL"])
    assert sorted(reads) == ["baseline", "candidate"]


def test_a_damaged_manifest_is_written_again(tiny, run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    (folder / "manifest.json").write_text('{"schema_ver')
    compare(tiny(output=folder), argv=["compare", "MODEL"])
    assert load(folder).manifest.command == "sage-eval compare MODEL"


def test_two_commands_in_one_folder_are_refused(tiny, run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    with lock(folder), pytest.raises(UsageError, match=f"in use by process {os.getpid()} on "):
        compare(tiny(output=folder), fresh=True)
    assert (folder / "arms/baseline/arm.json").exists()


def test_a_folder_of_something_else_is_not_overwritten(tiny, tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(UsageError, match=r"is not a run folder, its manifest\.json is something else's"):
        compare(tiny(output=tmp_path))


def test_an_unfinished_folder_does_not_advise_to_delete_what_is_finished(half):
    path = half / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command": "sage-eval compare M --fresh --limit 3"}))
    with pytest.raises(DataError, match=r"repeat: sage-eval compare M --limit 3$"):
        load(half)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"tasks": ("sage_mmul",)}, UsageError, "unknown task 'sage_mmul'; did you mean sage_mmlu"),
        ({"lm": "nobody:Model"}, UsageError, "lm='nobody:Model'"),
    ],
)
def test_what_an_arm_refuses_is_the_same_error_here(tiny, tmp_path, values, kind, message):
    with pytest.raises(kind, match=message) as error:
        compare(tiny(output=tmp_path, **values))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_model_is_refused(tiny, tmp_path):
    with pytest.raises(PrerequisiteError, match=r"holds no config\.json"):
        compare(tiny(model=str(tmp_path), output=tmp_path / "run"))
    with pytest.raises(PrerequisiteError, match="is not a folder"):
        compare(tiny(model="./nowhere", output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def start(half, model, tmp_path, fault="hang"):
    pids = tmp_path / "pids"
    tasks = ",".join(load_arm_spec(half)["tasks"])
    command = ["compare", str(model), "--lm", "tests.compare.lms:HashLM", "--tasks", tasks, "--output", str(half)]
    command += ["--no-calibrate"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sage_eval.cli", *command],
        env={**os.environ, "TEST_FAULT": f"sage_attn:{fault}", "TEST_PIDS": str(pids)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not pids.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, [int(pid) for pid in pids.read_text().split()]


def load_arm_spec(folder):
    return json.loads((folder / "arms/baseline/spec.json").read_text())


def gone(pids, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.1)
    return False


def test_ctrl_c_ends_every_process_keeps_the_finished_arm_and_says_130(half, model, tmp_path):
    process, pids = start(half, model, tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"^sage-eval: interrupted; finished arms are kept", errors, re.MULTILINE)
    assert "Traceback" not in errors
    assert gone(pids)
    assert "baseline (SGLang's choice): finished earlier, kept" in errors
    assert (half / "arms/baseline/arm.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_model_that_does_not_listen(half, model, tmp_path, times):
    process, pids = start(half, model, tmp_path, "deaf")
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < GRACE_SECONDS + 10  # a busy machine has its share
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert gone(pids)
    assert (half / "arms/baseline/arm.json").exists()


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_behind(half, model, tmp_path):
    process, pids = start(half, model, tmp_path)
    process.kill()
    process.communicate(timeout=30)
    assert gone(pids)
