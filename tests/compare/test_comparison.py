import math

import numpy as np
import pytest
from scipy import stats

from sage_eval.compare import rows as rows_of
from sage_eval.compare.pairing import pair
from sage_eval.errors import DataError
from sage_eval.store.folder import Arm, ArmRecord
from sage_eval.store.samples import Sample
from tests.compare.values import compared, rendered


def arm(run, name, samples, results=None):
    """An arm as `load` gives it, with other samples."""
    found = Arm(run.arms[name].folder, ArmRecord.model_validate(run.arms[name].record.model_dump()))
    found.__dict__.update(samples=samples, results=results or run.arms[name].results)
    return found


def rows(run, task):
    [found] = run.comparison.pairs
    return {row.metric: row for row in found.tasks if row.task == task}


def test_items_are_paired_by_task_and_document(run):
    paired = pair(run.arms["baseline"], arm(run, "candidate", run.arms["candidate"].samples[::-1]))
    assert {task: len(items) for task, items in paired.items()} == {
        "tiny_choice": 80,
        "tiny_perplexity": 40,
        "tiny_needle": 60,
    }
    assert all(base.key == cand.key for items in paired.values() for base, cand in items)


def test_a_changed_prompt_is_refused(run):
    samples = list(run.arms["candidate"].samples)
    samples[100] = samples[100].model_copy(update={"prompt": "0" * 32})
    with pytest.raises(DataError, match=r"tiny_perplexity, item 20: .*different prompts"):
        pair(run.arms["baseline"], arm(run, "candidate", samples))


@pytest.mark.parametrize("lacking", ["baseline", "candidate"])
def test_a_missing_item_is_refused(run, lacking):
    arms = {name: arm(run, name, run.arms[name].samples[: -1 if name == lacking else None]) for name in run.arms}
    with pytest.raises(DataError, match=r"1 are in one only .*tiny_needle, item 59"):
        pair(arms["baseline"], arms["candidate"])


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_an_item_that_is_there_twice_is_refused(run, side):
    """Twenty of forty items twice, one with another answer, were sixty pairs of forty items."""
    arms = {name: run.arms[name] for name in ("baseline", "candidate")}
    copy = type(arms[side])(arms[side].folder, arms[side].record)
    copy.__dict__["samples"] = [*arms[side].samples, arms[side].samples[0]]
    with pytest.raises(DataError, match=f"arm {side} answered 1 items more than once"):
        pair(*(arms | {side: copy}).values())


def test_accuracy_difference_and_flips_are_those_of_the_items(run):
    row = rows(run, "tiny_needle")["acc"]
    base, cand = (
        np.array([s.metrics["acc"] for s in run.arms[name].samples if s.task == "tiny_needle"])
        for name in ("baseline", "candidate")
    )
    assert (row.baseline.value, row.candidate.value) == (base.mean(), cand.mean())
    assert row.difference.value == pytest.approx((cand - base).mean())
    assert row.difference.se == pytest.approx(stats.sem(cand - base))
    assert (row.flips.lost, row.flips.gained) == ((base > cand).sum(), (cand > base).sum())
    assert row.flips.lost + row.flips.gained > 0
    assert row.changed == row.flips.lost + row.flips.gained


def test_perplexities_are_compared_as_ratios_of_sums(run):
    found = rows(run, "tiny_perplexity")
    pairs = {
        name: np.array([s.metrics["word_perplexity"] for s in run.arms[name].samples if s.task == "tiny_perplexity"])
        for name in run.arms
    }
    logs = {name: -column[:, 0].sum() / column[:, 1].sum() for name, column in pairs.items()}
    row = found["word_perplexity"]
    assert row.kind == "log-perplexity"
    assert not row.higher_is_better
    assert row.difference.value == pytest.approx(logs["candidate"] - logs["baseline"], rel=1e-9)
    theirs = run.arms["baseline"].results["results"]["tiny_perplexity"]["word_perplexity,none"]
    assert math.exp(row.baseline.value) == pytest.approx(theirs)
    # The pairing is what makes it sharp: the arms' own errors are far larger.
    assert row.difference.se < row.baseline.se / 100
    assert found["bits_per_byte"].kind == "bits"


def test_an_aggregation_that_is_no_average_is_left_out_and_said(run):
    results = {name: dict(run.arms[name].results) for name in run.arms}
    scores = {**results["baseline"]["results"], "tiny_needle": {"acc,none": 0.123}}
    base = arm(run, "baseline", run.arms["baseline"].samples, {**results["baseline"], "results": scores})
    [found] = compared(run.manifest, {"baseline": base, "candidate": run.arms["candidate"]}, {}).pairs
    assert {row.task for row in found.tasks} == {"tiny_choice", "tiny_perplexity"}
    assert found.skipped == ["tiny_needle acc: lm-eval's score (0.123) is not an average over the items"]


def grouped(run):
    """The same answers with the choices split into two tasks of a group."""
    arms = {}
    for name, original in run.arms.items():
        samples = [
            s.model_copy(update={"task": f"part_{s.cell['subject']}"})
            for s in original.samples
            if s.task == "tiny_choice"
        ]
        tasks = sorted({s.task for s in samples})
        scores = {t: {"acc,none": np.mean([s.metrics["acc"] for s in samples if s.task == t])} for t in tasks}
        whole = {"acc,none": np.mean([s.metrics["acc"] for s in samples])}
        results = {
            "results": {**scores, "parts": whole}, "groups": {"parts": whole}, "group_subtasks": {"parts": tasks},
            "higher_is_better": {t: {"acc": True} for t in tasks},
        }  # fmt: skip
        arms[name] = arm(run, name, samples, results)
    return arms


def test_a_group_pools_its_members_items_stratified(run):
    [found] = compared(run.manifest, grouped(run), {}).pairs
    whole, *parts = found.tasks
    assert (whole.task, whole.group, whole.n) == ("parts", True, 80)
    assert [(part.task, part.parent, part.n) for part in parts] == [
        ("part_colour", "parts", 40),
        ("part_number", "parts", 40),
    ]
    assert whole.baseline.value == pytest.approx(sum(part.baseline.value for part in parts) / 2)
    assert "stratified" in whole.baseline.method


def asked_otherwise(arms, task):
    """The candidate got another prompt for one item of `task`."""
    samples = list(arms["candidate"].samples)
    at = next(i for i, sample in enumerate(samples) if sample.task == task)
    samples[at] = samples[at].model_copy(update={"prompt": "0" * 32})
    return {**arms, "candidate": arm_like(arms["candidate"], samples)}


def arm_like(original, samples):
    found = Arm(original.folder, original.record)
    found.__dict__.update(samples=samples, results=original.results)
    return found


def test_a_task_with_other_prompts_is_not_established_and_the_others_are_judged(run):
    result = compared(run.manifest, asked_otherwise(run.arms, "tiny_choice"), {})
    assert {row.task for row in result.pairs[0].tasks} == {"tiny_perplexity", "tiny_needle"}
    found = {task.task: task for task in result.verdict.tasks}
    assert found["tiny_choice"].verdict == result.verdict.verdict == "not established"
    assert (
        "tiny_choice, item 0: arms baseline and candidate were given different prompts" in found["tiny_choice"].reason
    )
    assert set(found) == {"tiny_choice", "tiny_perplexity", "tiny_needle"}


def test_a_group_with_such_a_member_is_not_established_and_its_members_are_not_judged(run):
    result = compared(run.manifest, asked_otherwise(grouped(run), "part_colour"), {})
    assert [(row.task, row.parent) for row in result.pairs[0].tasks] == [("part_number", "parts")]
    [found] = result.verdict.tasks
    assert (found.task, found.verdict) == ("parts", "not established")


def test_where_no_task_can_be_paired_it_is_an_error(run):
    arms = dict(run.arms)
    for task in ("tiny_choice", "tiny_perplexity", "tiny_needle"):
        arms = asked_otherwise(arms, task)
    with pytest.raises(DataError, match="different prompts"):
        compared(run.manifest, arms, {})


def test_windows_of_a_text_are_clustered_by_document(run):
    arms = {
        name: arm(
            run,
            name,
            [
                s.model_copy(update={"cell": {"document": s.doc_id // 20}})
                for s in original.samples
                if s.task == "tiny_perplexity"
            ],
        )
        for name, original in run.arms.items()
    }
    [found] = compared(run.manifest, arms, {}).pairs
    assert {row.baseline.units for row in found.tasks} == {2}
    assert all(row.difference.se is None for row in found.tasks)


def test_chance_is_seen_for_choices_and_not_for_generations(run):
    row = rows(run, "tiny_choice")["acc"]
    right = [s.target for s in run.arms["baseline"].samples if s.task == "tiny_choice"]
    assert row.constant == max(right.count(choice) for choice in set(right)) / len(right)
    always = f"the best constant answer scores {100 * row.constant:.1f} %"
    assert row.notes[0] == f"baseline at chance (25 %; {always}): a loss could not be seen here"
    assert not any("chance" in note for note in rows(run, "tiny_needle")["acc"].notes)


def test_a_good_baseline_is_not_called_chance(run):
    right = [
        s.model_copy(update={"metrics": {"acc": 1.0}}) for s in run.arms["baseline"].samples if s.task == "tiny_choice"
    ]
    items = [(s, s) for s in right]
    row = rows_of.compare_items("tiny_choice", "acc", items, group=False, parent=None)
    assert not any("chance" in note for note in row.notes)


def test_a_baseline_no_better_than_a_constant_answer_is_at_chance(run):
    """Of 400 questions 140 have D for an answer: 34 % right is well above 25 %, and no better than "always D"."""
    samples = [
        s.model_copy(update={"doc_id": i, "target": 3 if i < 140 else i % 3, "metrics": {"acc": float(i < 136)}})
        for i, s in enumerate([s for s in run.arms["baseline"].samples if s.task == "tiny_choice"] * 400)
        if i < 400
    ]
    row = rows_of.compare_items("tiny_choice", "acc", [(s, s) for s in samples], group=False, parent=None)
    assert row.baseline.low > row.chance
    assert row.constant == 0.35
    assert row.notes[0].startswith("baseline at chance (25 %; the best constant answer scores 35.0 %)")


def test_cells_below_the_limit_are_uninformative(run):
    cells = rows(run, "tiny_needle")["acc"].cells
    assert [(cell.length, cell.depth, cell.n) for cell in cells] == [
        (length, depth, 10) for length in (512, 1024) for depth in (0.0, 0.5, 1.0)
    ]
    assert [cell.informative for cell in cells] == [cell.baseline >= 0.8 for cell in cells]
    assert sum(not cell.informative for cell in cells) == 1


@pytest.mark.parametrize("cell", [{"length": "short"}, {"length": 4096}, {"length": 4096, "depth": "deep"}])
def test_an_older_run_that_kept_a_documents_own_length_has_no_cells(run, cell):
    arms = {
        name: arm(run, name, [s.model_copy(update={"cell": cell}) for s in found.samples])
        for name, found in run.arms.items()
    }
    [found] = compared(run.manifest, arms, {}).pairs
    assert [row.cells for row in found.tasks] == [[]] * len(found.tasks)


@pytest.mark.parametrize(
    ("task", "minimum", "passed"),
    [
        ("tiny_needle", 0.5, True),
        ("tiny_needle", 0.99, False),
        ("tiny_perplexity", 1e6, True),
        ("tiny_perplexity", 1.0, False),
    ],
)
def test_the_absolute_gate_looks_at_the_candidate_in_lm_evals_units(run, task, minimum, passed):
    result = compared(run.manifest, run.arms, {task: minimum})
    assert (result.gates[0].passed, result.passed) == (passed, passed)


def test_a_gate_over_nothing_fails_and_costs_no_report(run):
    result = compared(run.manifest, run.arms, {"sage_mmlu": 0.6})
    assert (result.gates[0].value, result.passed) == (None, False)
    page = rendered(run.judged(result, None))
    assert "- minimum sage_mmlu = 0.6: **failed**, as none of its metrics could be compared" in page


def test_filters_of_one_task_are_metrics_of_their_own():
    def sample(filter_name, value):
        return Sample(task="t", doc_id=0, filter=filter_name, prompt="p", metrics={"exact_match": value})

    items = [(sample(name, 1.0), sample(name, 0.0)) for name in ("strict", "none")]
    assert list(rows_of.by_metric(items)) == ["exact_match,strict", "exact_match"]


def test_differences_that_few_documents_carry_are_said_to_be():
    few = [0.0] * 36 + [1.0, 1.1, 1.2, 1.5]

    def sample(i, loss):
        return Sample(task="t", doc_id=i, prompt="", metrics={"word_perplexity": (-300.0 - loss, 100)})

    def notes(losses):
        items = [(sample(i, 0.0), sample(i, loss)) for i, loss in enumerate(losses)]
        return rows_of.compare_items(
            "t", "word_perplexity", items, group=False, parent=None, kind="log-perplexity"
        ).notes

    assert any("a few of its units carry the difference" in note for note in notes(few))
    assert notes(list(np.random.default_rng(0).normal(0, 1, 40))) == []
