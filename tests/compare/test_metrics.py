"""Every kind of metric from lm-eval's answers to a row, or to a reason why there is none."""

import math

import numpy as np
import pytest

from sage_eval.compare import run as runner
from sage_eval.compare.ranking import chosen
from sage_eval.compare.run import compare
from tests.compare.values import compared, in_this_process, rendered

NAMES = ("choice", "cloze", "text", "lists", "lengths", "parsed", "repeats", "bypass", "corpus")
N = 40


@pytest.fixture(scope="module")
def kinds(tiny, tmp_path_factory):
    """A finished run of all kinds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_job", in_this_process)
        tasks = tuple(f"tests/compare/tasks/kinds/kinds_{name}.yaml" for name in NAMES)
        return compare(tiny(tasks=tasks, output=tmp_path_factory.mktemp("runs") / "kinds"))


UNASKED = {("kinds_lengths", "16384,none"), ("kinds_bypass", "bypass,none")}
"""A length that no item has, and no metric."""


def rows(run, task):
    [pair] = run.comparison.pairs
    return {row.metric: row for row in pair.tasks if row.task == f"kinds_{task}"}


def values(run, arm, task, metric):
    return [s.metrics[metric] for s in run.arms[arm].samples if s.task == f"kinds_{task}" and metric in s.metrics]


def test_every_score_of_lm_eval_has_a_row_or_a_reason(kinds):
    [pair] = kinds.comparison.pairs
    told = {(row.task, row.metric) for row in pair.tasks}
    scores = {
        (task, key.removesuffix(",none"))
        for task, found in kinds.arms["baseline"].results["results"].items()
        for key in found
        if "," in key and "_stderr" not in key and (task, key) not in UNASKED
    }
    assert scores == told | {
        (text.split()[0], text.split()[1].rstrip(":")) for text in pair.skipped if "no metric" not in text
    }


def test_what_was_described_is_in_the_arms_results(kinds):
    described = kinds.arms["candidate"].results["metrics"]
    assert described["kinds_choice"]["brier_score"] == {
        "aggregation": "brier_score", "kind": "resampled", "higher_is_better": False,
    }  # fmt: skip
    assert described["kinds_lists"]["followed"]["aggregation"] == "utils.agg_inst_level_acc"


def test_a_list_or_a_dict_as_a_target_stops_no_arm(kinds):
    targets = {s.task: s.target for s in kinds.arms["baseline"].samples if s.doc_id == 1}
    assert targets["kinds_text"] == '{"text": ["yes", "1 is"], "start": 1}'


def test_a_documents_length_makes_no_cells_and_no_clusters(kinds):
    [pair] = kinds.comparison.pairs
    assert not any(row.cells for row in pair.tasks)
    assert {row.difference.units for row in pair.tasks if row.n == N} == {N}


def test_the_perplexity_of_answers_is_the_exponential_of_a_mean(kinds):
    row = rows(kinds, "cloze")["perplexity"]
    base, cand = (np.array(values(kinds, arm, "cloze", "perplexity"))[:, 0] for arm in ("baseline", "candidate"))
    assert row.kind == "log-perplexity"
    assert row.difference.value == pytest.approx(base.mean() - cand.mean())
    theirs = kinds.arms["baseline"].results["results"]["kinds_cloze"]["perplexity,none"]
    assert math.exp(row.baseline.value) == pytest.approx(theirs)
    assert not row.higher_is_better


def test_lists_are_pooled_and_an_item_is_one_unit(kinds):
    row = rows(kinds, "lists")["followed"]
    base, cand = (np.array(values(kinds, arm, "lists", "followed")) for arm in ("baseline", "candidate"))
    assert set(base[:, 1]) == {1, 2, 3}
    assert row.kind == "pooled"
    assert row.difference.value == pytest.approx((cand[:, 0].sum() - base[:, 0].sum()) / base[:, 1].sum())
    assert row.difference.units == N
    assert row.baseline.value == pytest.approx(
        kinds.arms["baseline"].results["results"]["kinds_lists"]["followed,none"]
    )


def test_lengths_that_an_item_does_not_have_are_missing(kinds):
    found = rows(kinds, "lengths")
    assert {name: row.n for name, row in found.items()} == {"4096": N // 2, "8192": N // 2}
    assert 0 < found["4096"].baseline.value <= 1
    assert not any("kinds_lengths" in text for text in kinds.comparison.pairs[0].skipped)


def test_an_item_with_a_value_in_one_arm_only_is_left_out_and_said(kinds):
    row = rows(kinds, "parsed")["right"]
    has = {
        arm: {s.doc_id for s in kinds.arms[arm].samples if s.task == "kinds_parsed" and "right" in s.metrics}
        for arm in ("baseline", "candidate")
    }
    lost, gained = has["baseline"] - has["candidate"], has["candidate"] - has["baseline"]
    assert lost and gained
    assert row.n == len(has["baseline"] & has["candidate"])
    assert row.notes[-1] == (
        f"items left out: {len(gained)} without a value in baseline, {len(lost)} without a value in candidate"
    )
    assert row.notes[-1] in rendered(kinds)


def test_a_metric_that_one_arm_never_has_is_listed(kinds):
    cut = [
        s.model_copy(update={"metrics": {}}) if s.task == "kinds_parsed" else s for s in kinds.arms["candidate"].samples
    ]
    arms = dict(kinds.arms)
    arms["candidate"] = arm_like(arms["candidate"], cut)
    [pair] = compared(kinds.manifest, arms, {}).pairs
    assert "kinds_parsed right: no item has a value in both arms" in pair.skipped
    assert "kinds_parsed" in pair.incomparable


def test_a_nan_of_a_tasks_own_metric_is_a_missing_item(kinds):
    row = rows(kinds, "parsed")["length_ratio"]
    assert row.n == N - N // 5
    assert not any("left out" in note for note in row.notes)


def test_repeats_that_are_all_kept_are_one_unit(kinds):
    row = rows(kinds, "repeats")["exact_match,both"]
    assert row.n == row.difference.units == N
    assert {len(s.generated) for s in kinds.arms["baseline"].samples if s.task == "kinds_repeats"} == {2}


def test_a_bypassed_metric_is_listed_and_its_task_is_not_established(kinds):
    [pair] = kinds.comparison.pairs
    changed = sum(a.generated != b.generated for a, b in pair_of(kinds, "kinds_bypass"))
    assert f"kinds_bypass: no metric was computed; {changed} of {N} answers differ" in pair.skipped
    [found] = [task for task in kinds.comparison.verdict.tasks if task.task == "kinds_bypass"]
    assert found.verdict == "not established"


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_mutual_info"])
def test_the_choice_that_is_shown_is_the_one_that_the_metric_counts(kinds, metric):
    """Else its flips and near-ties would be of another answer."""
    row = rows(kinds, "choice")[metric]
    for arm in kinds.arms.values():
        for sample in (s for s in arm.samples if s.task == "kinds_choice"):
            assert (chosen(sample, metric) == sample.target) == sample.metrics[metric]
    assert row.chance == 0.5
    assert row.changes.flips == row.flips


@pytest.mark.parametrize(
    ("task", "metric", "better"),
    [
        ("choice", "f1", True),
        ("choice", "mcc", True),
        ("choice", "brier_score", False),
        ("text", "bleu", True),
        ("text", "chrf", True),
        ("text", "ter", False),
        ("corpus", "macro", True),
    ],
)
def test_a_score_of_all_items_at_once_is_compared_by_drawing_the_items_anew(kinds, task, metric, better):
    row = rows(kinds, task)[metric]
    theirs = [arm.results["results"][f"kinds_{task}"][f"{metric},none"] for arm in kinds.arms.values()]
    assert (row.baseline.value, row.candidate.value) == pytest.approx(tuple(theirs))
    assert row.difference.value == pytest.approx(theirs[1] - theirs[0])
    assert (row.kind, row.n, row.higher_is_better) == ("resampled", N, better)
    assert max(row.baseline.se, row.candidate.se) > 0
    assert (row.difference.se == 0) == row.identical


def test_an_aggregation_that_is_not_a_function_of_shares_is_listed(kinds):
    [text] = [text for text in kinds.comparison.pairs[0].skipped if text.startswith("kinds_corpus ordered")]
    assert text.endswith("kinds.by_place: it cannot be resampled: it depends on more than the shares of its items")


def test_two_arms_whose_items_are_not_the_same_have_no_such_row(kinds):
    results = kinds.arms["candidate"].results
    drawn = {**results["resampled"], "kinds_text": {"bleu": {"n": 39, "items": "others", "draws": [1.0] * 50}}}
    arms = {**kinds.arms, "candidate": arm_like(kinds.arms["candidate"], kinds.arms["candidate"].samples)}
    arms["candidate"].__dict__["results"] = {**results, "resampled": drawn}
    [pair] = compared(kinds.manifest, arms, {}).pairs
    assert "kinds_text bleu: an arm has no draws of it, or of other items" in pair.skipped


def pair_of(run, task):
    sides = [[s for s in arm.samples if s.task == task] for arm in run.arms.values()]
    return list(zip(*sides, strict=True))


def test_a_gate_over_nothing_fails(kinds):
    """`--fail-on worse` where no task could be judged: nothing was gated."""
    only = {
        name: arm_like(arm, [s for s in arm.samples if s.task == "kinds_bypass"]) for name, arm in kinds.arms.items()
    }
    assert compared(kinds.manifest, only, {}).passed
    assert not compared(kinds.manifest, only, {}, fail_on=["worse"]).passed


def arm_like(original, samples):
    """The arm with other samples."""
    found = type(original)(original.folder, original.record)
    found.__dict__.update(samples=samples, results=original.results)
    return found
