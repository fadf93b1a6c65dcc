"""A run folder is valid, or each thing that does not follow has its line."""

import json
import shutil
from pathlib import Path

import pytest

from sage_eval.compare.run import again
from sage_eval.report.comparison import report
from sage_eval.report.validate import misses
from sage_eval.store import load, parquet
from sage_eval.store.files import read_jsonl_zst, write_jsonl_zst

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path for path in RESULTS.iterdir() if path.is_dir() and not path.name.startswith(("demo", "tmp")))
LONG = (
    "reference-model-h100", "reference-model-h200", "reference-model-cpu",
    "smollm2-135m-h200", "qwen2.5-coder-0.5b-h200",
)  # fmt: skip


@pytest.fixture(scope="session")
def valid_run(tmp_path_factory, old_run):
    folder = Path(shutil.copytree(old_run, tmp_path_factory.mktemp("valid") / "run"))
    (folder / "report.md").write_text(report(again(load(folder)), figures={}).markdown())
    return folder


@pytest.fixture
def copy(valid_run, tmp_path):
    return Path(shutil.copytree(valid_run, tmp_path / "run"))


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_run_that_was_rendered_by_this_version_is_valid(valid_run):
    assert misses(valid_run) == []


@pytest.mark.parametrize(
    "folder", [pytest.param(f, marks=pytest.mark.slow if f.name in LONG else ()) for f in FOLDERS], ids=lambda f: f.name
)
def test_published_folders_are_valid(folder):
    assert misses(folder) == []


def test_a_score_that_the_samples_do_not_give_is_named(copy):
    edit(copy / "comparison.json", lambda value: value["pairs"][0]["tasks"][0]["difference"].update(value=0.5))
    [line, *_] = misses(copy)
    assert line.startswith("comparison.json: pairs.candidate.tasks.tiny_choice/acc.difference.value is 0.5, ")


def test_an_answer_that_was_changed_is_seen_in_the_scores(copy):
    arm = load(copy).arms["candidate"]
    lost = next(sample for sample in arm.samples if sample.metrics.get("acc") == 1.0)
    changed = [s.model_copy(update={"metrics": s.metrics | {"acc": 0.0}}) if s is lost else s for s in arm.samples]
    parquet.write(arm.folder / "samples.parquet", changed)
    assert misses(copy)[0].startswith("comparison.json: ")


def test_a_table_that_was_edited_is_named(copy):
    path = copy / "report.md"
    path.write_text(path.read_text().replace("91.67", "99.67"))
    assert misses(copy) == ["report.md does not follow from the folder; `sage-eval report` makes it of the samples"]


def test_a_prompt_with_another_text_has_another_hash(copy):
    path = copy / "prompts.jsonl.zst"
    header, first, *rest = read_jsonl_zst(path)
    write_jsonl_zst(path, [header, first | {"context": "Another question?"}, *rest])
    assert f"prompts.jsonl.zst: {first['task']}, item {first['doc_id']}: its text has another hash" in misses(copy)


def test_an_arm_that_was_told_something_else_is_named(copy):
    edit(copy / "arms/candidate/spec.json", lambda value: value.update(seed=7))
    assert misses(copy) == ["arms/candidate: spec.json and arm.json tell of different arms"]


def test_a_model_whose_files_have_other_hashes_is_named(copy):
    edit(copy / "manifest.json", lambda value: value["model"]["files"].update({"model.safetensors": "0" * 64}))
    assert "manifest.json: the model's hash is not that of its files" in misses(copy)


def test_lost_answers_are_counted(copy):
    edit(copy / "arms/baseline/arm.json", lambda value: value.update(items=181))
    assert "has 180 items, arm.json says 181" in misses(copy)[-1]


def test_a_damaged_record_is_one_line(tmp_path):
    (tmp_path / "serving.json").write_text('{"schema_version": 2, "kind": "serving"}')
    [line] = misses(tmp_path)
    assert line.startswith("serving.json: provenance: ")


def test_a_folder_of_something_else_is_said(tmp_path):
    assert misses(tmp_path) == ["it holds neither manifest.json nor a record of a measurement"]
    assert misses(tmp_path / "nowhere") == ["it is not a folder"]
