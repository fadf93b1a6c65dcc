"""A finished run keeps once what its arms share."""

import json
import shutil
from pathlib import Path

import pytest

from sage_eval.errors import DataError
from sage_eval.report.worst import worst as items
from sage_eval.runs import compare, load, packing, worst
from sage_eval.runs.files import read_jsonl_zst, write_jsonl_zst


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run.folder, tmp_path / "run"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_packing_twice_changes_nothing(copy):
    before = contents(copy)
    packing.pack(load(copy))
    assert contents(copy) == before


def test_a_candidate_does_not_outlive_its_baseline(copy):
    shutil.copy(copy / "arms/candidate/samples.jsonl.zst", copy / "arms/baseline/samples.jsonl.zst")
    with pytest.raises(DataError, match=r"candidate/samples.* belongs to another baseline .*--fresh"):
        _ = load(copy).arms["candidate"].samples


def test_the_text_of_the_prompts_that_lost_most_is_kept(run):
    kept = {prompt["hash"] for prompt in run.prompts.values() if prompt["requests"]}
    lost = worst.losses(run, run.comparison)
    assert set(lost) == {"tiny_choice", "tiny_needle", "tiny_perplexity"}
    assert kept == {loss.both[0].prompt for ranked in lost.values() for loss in ranked[: packing.KEPT]}
    assert not list(run.folder.glob("arms/*/prompts*"))


def test_what_the_report_shows_has_its_text(run):
    shown = [item for item in items(run) if item.task != "tiny_perplexity"]  # whose text is no prompt
    assert shown
    assert all(item.prompt for item in shown)


def test_prompts_of_an_arm_that_is_added_join_the_others(copy):
    path = copy / "prompts.jsonl.zst"
    header, *lines = read_jsonl_zst(path)
    assert len(lines) > 5
    write_jsonl_zst(copy / "arms/candidate/prompts.jsonl.zst", [header, *lines[:5]])
    write_jsonl_zst(path, [header, *lines[5:]])
    compare.summarise(copy, {})
    assert {line["hash"] for line in list(read_jsonl_zst(path))[1:]} == {line["hash"] for line in lines}


def test_prompts_without_text_say_where_it_is(run):
    bare = [prompt for prompt in run.prompts.values() if not prompt["requests"]]
    assert {prompt["context"] for prompt in bare} == {""}
    sample = next(s for s in run.arms["baseline"].samples if s.prompt == bare[0]["hash"])
    assert (bare[0]["task"], bare[0]["doc_id"]) == (sample.task, sample.doc_id)


def test_an_arm_of_an_older_version_is_left_as_it_is(tmp_path):
    stored = Path(__file__).parent / "stored/schema_1"
    folder = Path(shutil.copytree(stored, tmp_path / "run"))
    packing.pack(load(folder))
    assert {p.relative_to(folder): b for p, b in contents(folder).items()} == {
        p.relative_to(stored): b for p, b in contents(stored).items()
    }


def test_a_damaged_column_is_a_data_error(copy):
    record = json.loads((copy / "arms/baseline/arm.json").read_text())
    (copy / "arms/baseline/arm.json").write_text(json.dumps(record | {"items": 1}))
    with pytest.raises(DataError, match="has 180 items"):
        compare.summarise(copy, {})
