"""Which items are shown as the worst, and what of them."""

from dataclasses import replace

import pytest

from sage_eval.report.worst import HEAD, LEAST, TAIL, worst
from sage_eval.store import load


@pytest.fixture(scope="module")
def found(full_run):
    return worst(full_run)


def test_there_are_twenty_and_every_task_that_lost_is_among_them(found):
    assert len(found) == 20
    assert {"tiny_text"} < {item.task for item in found}
    assert any(item.task.startswith("tiny_mmlu_") for item in found)


def test_within_a_task_lost_items_come_first_then_the_largest_losses(found):
    choices = [item for item in found if item.task.startswith("tiny_mmlu_")]
    assert choices == sorted(choices, key=lambda item: (not item.lost, -item.loss))
    assert choices[0].lost
    texts = [item.loss for item in found if item.task == "tiny_text"]
    assert texts == sorted(texts, reverse=True)
    assert texts[-1] >= LEAST


def test_a_loss_of_rounding_is_none(full_run, monkeypatch):
    monkeypatch.setattr("sage_eval.report.worst.LEAST", 1e9)
    assert all(item.lost for item in worst(full_run))


def test_choices_show_what_each_arm_chose_and_which_is_right(found, full_run):
    item = next(item for item in found if item.lost)
    [base] = [s for s in full_run.arms["baseline"].samples if (s.task, s.doc_id) == (item.task, item.doc_id)]
    assert [row.name.removesuffix(" (right)") for row in item.answers] == ["A", "B", "C", "D"]
    right = item.answers[base.target]
    assert right.name.endswith("(right)")
    assert right.baseline.endswith("← chosen")
    assert not right.candidate.endswith("← chosen")


def test_a_shortened_text_shows_both_ends(found):
    item = next(item for item in found if "The beginning." in item.prompt)
    assert item.prompt.endswith(" The end.")
    assert f"[{20_000 + 2 - HEAD - TAIL:,} characters]" in item.prompt


def test_a_long_prompt_is_cut_to_its_ends(full_run):
    run = load(full_run.folder)
    needle = next(s for s in run.arms["baseline"].samples if s.task == "tiny_needle" and s.metrics["acc"])
    twin = needle.model_copy(update={"metrics": {"acc": 0.0}, "generated": ["lost <b>"]})
    _answer(run.arms["candidate"], twin)
    [item] = [item for item in worst(run, most=100) if item.task == "tiny_needle"]
    assert item.lost
    assert len(item.prompt) < HEAD + TAIL + 50
    assert item.prompt.startswith(f"Find {needle.doc_id}.")
    assert [(row.name, row.baseline, row.candidate) for row in item.answers] == [
        ("expected", needle.target, needle.target),
        ("answer", needle.target, "lost <b>"),
    ]


def test_items_without_a_stored_prompt_are_still_shown(full_run):
    run = load(full_run.folder)
    vars(run)["prompts"] = {}
    shown = worst(run)
    assert [(item.task, item.doc_id) for item in shown] == [(item.task, item.doc_id) for item in worst(full_run)]
    assert {item.prompt for item in shown} == {""}
    assert shown[0].answers[0].name.startswith("choice 1")


def test_equal_arms_have_no_worst_item(full_run):
    run = load(full_run.folder)
    run = replace(run, arms={**run.arms, "candidate": run.arms["repeat"]})
    vars(run)["comparison"] = full_run.comparison
    vars(run)["prompts"] = full_run.prompts
    assert worst(run) == []


def _answer(arm, sample):
    samples = [sample if s.key == sample.key else s for s in arm.samples]
    vars(arm)["samples"] = samples
