"""What is computed from rows: agreement, ratios, prompts, phases. No engine."""

import re
from pathlib import Path

import pytest

from sage_eval.errors import UsageError
from sage_eval.measure.scoring import models
from sage_eval.measure.scoring.instrument import Scoring, _enter
from sage_eval.measure.scoring.models import Stopwatch
from sage_eval.measure.scoring.rows import Part, Pass, Round, Seconds, Task, agreement
from sage_eval.measure.scoring.view import failures, ratios
from sage_eval.measure.scoring.worker import make_prompts
from sage_eval.report.measurements import text
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry, Record

STORED = Path(__file__).parent / "stored" / "schema_1.json"


def task(score, scoring=2.0, answers=None, metric="acc", items=4):
    seconds = Seconds(load=1, build=1, request=scoring + 1, tokenise=0.5, scoring=scoring, after=0.5, metrics=0)
    return Task(items=items, requests=16, seconds=seconds, score=score, metric=metric, answers=answers or {})


def record(rows, **model):
    """A record of (arm, cell, what it has)."""
    rows = [Part(arm=arm, cell=cell, block=0, **found) for arm, cell, found in rows]
    empty = records.read(Part, STORED, "scoring")
    provenance = empty.provenance.model_copy(update={"model": {"name": "m", **model}})
    arms = {row.arm: ArmEntry(role="candidate", arguments={}, start_seconds=4) for row in rows}
    changed = {"provenance": provenance, "arms": arms, "rows": rows, "settings": {"prompts": 10}}
    return empty.model_copy(update=changed)


def evaluated(**tasks):
    return record([(name.replace("_", "-"), "evaluation/t=4", {"task": found}) for name, found in tasks.items()])


def shown(made):
    return text(Scoring().view(made))


CHOICES = {"a": [-1.0, -2.0], "b": [-3.0, -1.0]}


def agree(answers, others, score=0.5, base=0.5, metric="acc", bits=16):
    mine, theirs = task(score, answers=answers, metric=metric), task(base, answers=others, metric=metric)
    return agreement("hf", mine, theirs, bits)


def test_equal_answers_agree_and_their_differences_are_averaged():
    found = agree({"a": [-1.125, -2.0], "b": [-3.0, -1.0]}, CHOICES)
    assert (found.reason, found.turned, found.mean_difference) == (None, 0, 0.03125)


@pytest.mark.parametrize(("gap", "bits", "equal"), [
    (0.023, 16, True), (0.19, 16, False), (0.06, 16, False), (1e-5, 32, True), (0.023, 32, False),
])  # fmt: skip
def test_what_rounds_is_equal_and_what_is_damaged_is_not_though_no_choice_turns(gap, bits, equal):
    """Average distances as INT8 attention and the outlier stress × 16 have them from FA3."""
    moved = {key: [value - gap for value in values] for key, values in CHOICES.items()}
    assert (agree(moved, CHOICES, bits=bits).reason is None) is equal


@pytest.mark.parametrize(
    ("lead", "bits", "equal"), [(0.12, 16, True), (0.13, 16, False), (0.009, 32, True), (0.02, 32, False)]
)
def test_choice_may_turn_only_where_the_reference_hardly_has_one(lead, bits, equal):
    """However many there are: a near-tie that turns is no loss, one clear answer that does is."""
    many = {str(number): [-1.0, -9.0] for number in range(1000)}
    found = agree(many | {"x": [-2.0, -1.999]}, many | {"x": [-2.0, -2.0 - lead]}, score=0.501, bits=bits)
    assert (found.reason is None) is equal
    assert found.turned == 1
    assert equal or f"1 other choices, by a lead of up to {lead:.2g} nats" in found.reason


def test_lead_that_counts_is_that_over_the_choice_made():
    """Third best becomes best: that the second was near says nothing."""
    assert agree({"x": [-2.0, -1.01, -0.99]}, {"x": [-1.0, -1.01, -2.0]}).reason


def test_log_probabilities_of_another_prompt_are_seen_where_the_choices_are_the_same():
    assert agree({"a": [-1.2, -2.2], "b": [-3.2, -1.2]}, CHOICES).reason


@pytest.mark.parametrize(("score", "equal"), [(0.502, True), (0.498, True), (0.503, False), (0.49, False)])
def test_perplexities_agree_within_half_a_per_cent(score, equal):
    found = agree({"a": [-10.0]}, {"a": [-11.0]}, score, metric="word_perplexity")
    assert (found.reason is None) is equal


@pytest.mark.parametrize(("items", "right", "bits", "equal"), [
    (20, 19, 16, True), (20, 18, 16, False), (20, 19, 32, False), (100, 98, 32, True), (100, 97, 16, False),
])  # fmt: skip
def test_of_generated_answers_few_may_differ(items, right, bits, equal):
    texts = {str(number): "7" for number in range(items)}
    assert (agree(texts, texts, right / items, 1.0, bits=bits).reason is None) is equal


def test_missing_answer_is_no_agreement():
    reason = "the 1 items answered, or their choices, are not the 2 of hf"
    assert agree({"a": [-1.0, -2.0]}, CHOICES).reason == reason


def test_other_choices_than_the_references_are_no_agreement():
    found = agree({"a": [-1.0, -2.0, -9.0], "b": [-3.0, -1.0]}, CHOICES)
    assert found.reason.startswith("the 2 items answered, or their choices")
    assert found.turned == 0


def test_texts_are_the_same_or_not():
    found = agree({"a": "x", "b": "y"}, {"a": "x", "b": "z"}, 1.0, 1.0)
    assert (found.turned, found.mean_difference) == (1, None)


def test_unequal_answers_fail_and_hf_is_the_reference_once_it_is_there():
    turned = {"a": [-1.0, -2.0], "b": [-1.0, -3.0]}
    made = {"sglang": task(1.0, answers=turned), "x": task(0.5, answers=CHOICES)}
    [reason] = failures(evaluated(**made))
    assert reason.startswith("x, t: acc 0.5 beside sglang's 1: 1 other choices, by a lead of up to 2 nats")
    found = evaluated(**made, hf=task(0.5, answers=CHOICES))
    [reason] = failures(found)
    assert reason.startswith("sglang, t: acc 1 beside hf's 0.5")
    assert (
        "| sglang | 4 | 2.0 | 1.00 | 0.44 | 4.0 | 2.0 | 0.50 | 2.00 | acc 1 | +0.5 (unequal) | 1 | 1.0e+00 |"
        in shown(found)
    )


def test_random_weights_are_timed_and_their_scores_not_compared():
    answers = {"a": [-1.0, -2.0]}
    rows = [
        (name, "evaluation/t=4", {"task": task(score, answers=answers)})
        for name, score in (("sglang", 0.5), ("x", 0.1))
    ]
    made = record(rows, weights="random")
    made.arms["hf"] = ArmEntry(role="baseline", arguments={}, engine={"absent": models.absent("hf", random=True)})
    assert not failures(made)
    assert "random weights mean nothing" in shown(made)
    assert "reference" not in shown(made)
    assert "Not measured: hf (cannot draw SGLang's random weights)." in shown(made)


@pytest.mark.parametrize(("dtype", "bits"), [("auto", 16), ("bfloat16", 16), ("half", 16), ("float32", 32)])
def test_tolerance_is_that_of_the_dtype(dtype, bits):
    assert models.bits(dtype) == bits


def test_rates_are_compared_with_lm_evals_model():
    made = evaluated(sglang=task(0.5, 20.0), hf=task(0.5, 2.0))
    assert ratios({row.arm: row.task for row in made.rows}) == pytest.approx({"sglang": 1, "hf": 10})
    assert "| hf | 4 | 2.0 | 10.00 |" in shown(made)
    assert made.rows[1].task.end_to_end(4) == pytest.approx(4 / (4 + 2 + 3))


def test_the_figure_has_a_mark_per_model_beside_lm_evals():
    [svg] = Scoring().view(evaluated(sglang=task(0.5, 20.0), hf=task(0.5, 2.0))).figures
    words = re.findall(r">([^<>]+)</text>", svg.text)
    assert words.count("t") == 2  # while scoring, and with the start
    assert "hf" in words
    assert "sglang" not in words


def test_without_lm_evals_model_there_is_no_figure():
    assert Scoring().view(evaluated(hf=task(0.5, 2.0))).figures == []


def test_share_is_the_median_over_rounds():
    def one(seconds):
        passes = {"computed_tokens": 600, "cached_tokens": 400}
        return {"round": Round(plain=Pass(seconds=1.0, **passes), scored=Pass(seconds=seconds, **passes))}

    made = record([("fa3/fidelity", f"rate/{index}", one(seconds)) for index, seconds in enumerate((1.25, 2.0, 1.0))])
    assert "| fa3/fidelity | 10 × 100 | 40% / 40% | 600 600 600 | 480 300 600 | 80.0% |" in shown(made)


def test_task_that_failed_is_a_failure():
    made = record([("hf", "evaluation/t=4", {"error": "arm hf: no items"})])
    assert failures(made) == ["hf, t: arm hf: no items"]
    assert Scoring().failed(made, None)


def test_prompts_share_beginnings_by_subject_and_have_the_asked_length():
    prompts = make_prompts(200, 700, 1000, seed=3)
    assert sum(map(len, prompts)) / 200 == pytest.approx(700, rel=0.05)
    assert len(set(prompts)) == 200
    assert prompts[0][:525] == prompts[9][:525] != prompts[10][:525]
    assert prompts == make_prompts(200, 700, 1000, seed=3) != make_prompts(200, 700, 1000, seed=4)


def test_stopwatch_spans_all_calls_and_ends_with_the_last_answer():
    watch = Stopwatch()
    assert watch.first is None
    watch.over(lambda: None)()
    first = watch.first
    answers = watch.over_iterator(lambda: iter("ab"))()
    assert list(answers) == ["a", "b"]
    assert watch.first == first
    settled = []
    watch.over(lambda: None, lambda: settled.append(watch.last))()
    assert settled[0] < watch.last, "what the GPU still does is part of the time"
    before_failure = watch.last
    with pytest.raises(ZeroDivisionError):
        watch.over(lambda: 1 / 0)()
    assert watch.last > before_failure


def test_arm_with_rows_of_other_arguments_is_refused():
    made: Record[Part] = record([("hf", "evaluation/t=4", {"task": task(0.5)})])
    _enter(made, "hf", "baseline", {})
    with pytest.raises(UsageError, match=r"hf was measured with \{\}, not with \{'max_length': 5\}: choose --output"):
        _enter(made, "hf", "baseline", {"max_length": 5})
    _enter(made, "sglang", "candidate", {"max_length": 5})


def test_stored_record_of_schema_1_has_its_numbers():
    made = shown(records.read(Part, STORED, "scoring"))
    assert (
        "| sglang-sage:throughput | 4 | 2.0 | 10.00 | 0.44 | 4.0 | 2.0 | 0.50 | 2.00 | acc 0.5 | +0 | – | 0.0e+00 |"
        in made
    )
    assert "Not measured: vllm (vllm not installed)." in made
    assert "| fa3/fidelity | 10 × 100 | 40% / 40% | 600 | 480 | 80.0% |" in made
    assert "| 1,000 | 1 | 5 | 1,049 | 1,049 | 2,097 | 500 |" in made
