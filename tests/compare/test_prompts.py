"""What a finished run keeps of its prompts: the text of those on which the candidate lost most."""

import shutil
from pathlib import Path

import pytest

from sage_eval.compare import worst
from sage_eval.compare.run import judge
from sage_eval.report.worst import worst as items
from sage_eval.store import load
from sage_eval.store.files import read_jsonl_zst, write_jsonl_zst


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run.folder, tmp_path / "run"))


def test_the_text_of_the_prompts_that_lost_most_is_kept(run):
    kept = {prompt["hash"] for prompt in run.prompts.values() if prompt["requests"]}
    lost = worst.losses(run, run.comparison)
    assert set(lost) == {"tiny_choice", "tiny_needle", "tiny_perplexity"}
    assert kept == {loss.both[0].prompt for ranked in lost.values() for loss in ranked[: worst.KEPT]}
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
    judge(load(copy), {})
    assert {line["hash"] for line in list(read_jsonl_zst(path))[1:]} == {line["hash"] for line in lines}


def test_prompts_without_text_say_where_it_is(run):
    bare = [prompt for prompt in run.prompts.values() if not prompt["requests"]]
    assert {prompt["context"] for prompt in bare} == {""}
    sample = next(s for s in run.arms["baseline"].samples if s.prompt == bare[0]["hash"])
    assert (bare[0]["task"], bare[0]["doc_id"]) == (sample.task, sample.doc_id)
