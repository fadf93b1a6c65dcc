"""Scores while an arm runs: each finished item has the score that lm-eval gives it at the end."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from sage_eval.compare.running import RunningScores
from sage_eval.compare.spec import arms
from sage_eval.compare.standing import count, finished, standings
from sage_eval.compare.worker import answer
from sage_eval.store import folder as layout
from sage_eval.store import running
from sage_eval.store.provenance import versions

KINDS = sorted(str(path) for path in Path("tests/compare/tasks/kinds").glob("kinds_*.yaml"))


def answered(config, folder):
    baseline, *_ = arms(config, "hash", versions())
    answer(baseline, folder)
    arm = layout.read_arm(folder)
    return running.read(folder / layout.RUNNING), finished(arm)


def same(found, expected):
    """Whether all scores are the same, whatever order items finished in."""
    rows = [{(s.name, s.metric): s for s in standings({"baseline": items})} for items in (found, expected)]
    assert rows[0].keys() == rows[1].keys() != set()
    for key, row in rows[0].items():
        values = [[s.score.n, s.score.value, s.score.low or 0.0] for s in (row, rows[1][key])]
        assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-12), key


def test_running_scores_of_a_whole_arm_are_its_scores(tiny, tmp_path):
    found, expected = answered(tiny(), tmp_path)
    assert count(found) == found[0].items == {"tiny_choice": 80, "tiny_perplexity": 40, "tiny_needle": 60}
    assert found[0].requests == {"loglikelihood": 320, "loglikelihood_rolling": 40, "generate_until": 60}
    same(found, expected)


def test_filters_repeats_lists_and_parsed_answers_are_scored_as_by_lm_eval(tiny, tmp_path):
    found, expected = answered(tiny(tasks=KINDS), tmp_path)
    same(found, expected)


def test_chosen_items_keep_their_numbers(tiny, tmp_path):
    chosen = [3, 5, 70]
    found, _ = answered(tiny(tasks=["tests/compare/tasks/tiny_choice.yaml"], samples={"tiny_choice": chosen}), tmp_path)
    assert sorted(sample.doc_id for sample in found[1]) == chosen


def test_a_group_has_one_row_of_all_its_items(tiny, tmp_path):
    found, expected = answered(tiny(tasks=["tests/compare/tasks/tiny_group.yaml"]), tmp_path)
    [row] = standings({"baseline": found})
    assert (row.name, row.metric, row.score.n) == ("tiny_group", "acc", 140)
    same(found, expected)


def test_two_arms_are_paired_over_the_items_that_both_have(tiny, tmp_path):
    (asked, whole), _ = answered(tiny(), tmp_path)
    half = [sample for sample in whole if sample.doc_id % 2]
    row = next(
        row for row in standings({"baseline": (asked, whole), "candidate": (asked, half)}) if row.arm != "baseline"
    )
    assert (row.difference.n, row.difference.value) == (row.score.n, 0)


def test_scoring_ahead_draws_no_lots_that_lm_eval_would_draw(tmp_path, monkeypatch):
    """A task that guesses where it cannot parse must guess as it would without a watcher."""
    monkeypatch.setattr(RunningScores, "_scored", lambda self, task, item: iter([random.random()][:0]))
    scores = RunningScores(tmp_path / layout.RUNNING, {"task": object()}, {}, {})
    random.seed(7)
    expected = random.random()
    random.seed(7)
    scores._finish(SimpleNamespace(task="task"))
    assert random.random() == expected


def test_a_task_that_cannot_be_scored_ahead_is_left_to_lm_eval(tiny, tmp_path, monkeypatch):
    whole = RunningScores._scored

    def failing(self, task, item):
        if item.task == "tiny_needle":
            raise RuntimeError("wants all items at once")
        return whole(self, task, item)

    monkeypatch.setattr(RunningScores, "_scored", failing)
    found, (_, samples) = answered(tiny(), tmp_path)
    assert count(found) == {"tiny_choice": 80, "tiny_perplexity": 40}
    assert len(samples) == 180


def test_a_line_that_is_being_written_is_left_for_the_next_look(tiny, tmp_path):
    path = tmp_path / layout.RUNNING
    assert running.read(path) is None
    answered(tiny(), tmp_path)
    data = path.read_bytes()
    for cut in range(0, len(data), 997):
        path.write_bytes(data[:cut])
        found = running.read(path)
        lines = data[:cut].count(b"\n")
        assert found is None if lines == 0 else len(found[1]) == lines - 1
