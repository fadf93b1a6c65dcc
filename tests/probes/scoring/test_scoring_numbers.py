"""What is computed from measurements: agreement, ratios, prompts, phases. No engine."""

import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.probes.scoring import agreement, columns, rate, record, table
from sage_eval.probes.scoring.record import Column, Pass, Rate, Record, Round, Seconds, Task
from sage_eval.probes.scoring.stopwatch import Stopwatch
from sage_eval.runs.files import write_json


def task(score, scoring=2.0, items=4):
    seconds = Seconds(load=1, build=1, request=scoring + 1, tokenise=0.5, scoring=scoring, after=0.5, metrics=0)
    return Task(items=items, requests=16, seconds=seconds, score=score, metric="acc")


def make(columns_, **more):
    return Record(
        created="", command="", model={"name": "m"}, seed=0, settings={}, versions={}, host={"cpu": "a"}, devices=[],
        code="", evaluation=columns_, **more,
    )  # fmt: skip


CHOICES = {"a": [-1.0, -2.0], "b": [-3.0, -1.0]}


def agree(answers, others, score=0.5, base=0.5, metric="acc", bits=16):
    mine, theirs = (task(value).model_copy(update={"metric": metric}) for value in (score, base))
    return agreement.agreement("hf", mine, theirs, answers, others, bits)


def test_equal_answers_agree_and_their_differences_are_averaged():
    found = agree({"a": [-1.125, -2.0], "b": [-3.0, -1.0]}, CHOICES)
    assert found.equal
    assert (found.same_answers, found.turned, found.widest) == (1.0, 0, None)
    assert (found.mean_difference, found.largest_difference) == (0.03125, 0.125)


@pytest.mark.parametrize(("gap", "bits", "equal"), [
    (0.023, 16, True), (0.19, 16, False), (0.06, 16, False), (1e-5, 32, True), (0.023, 32, False),
])  # fmt: skip
def test_what_rounds_is_equal_and_what_is_damaged_is_not_though_no_choice_turns(gap, bits, equal):
    """Average distances as INT8 attention and the outlier stress × 16 have them from FA3."""
    moved = {key: [value - gap for value in values] for key, values in CHOICES.items()}
    assert agree(moved, CHOICES, bits=bits).equal is equal


@pytest.mark.parametrize(
    ("lead", "bits", "equal"), [(0.12, 16, True), (0.13, 16, False), (0.009, 32, True), (0.02, 32, False)]
)
def test_a_choice_may_turn_only_where_the_reference_hardly_has_one(lead, bits, equal):
    """However many there are: a near-tie that turns is no loss, one clear answer that does is."""
    many = {str(number): [-1.0, -9.0] for number in range(1000)}
    found = agree(many | {"x": [-2.0, -1.999]}, many | {"x": [-2.0, -2.0 - lead]}, score=0.501, bits=bits)
    assert found.equal is equal
    assert found.turned == 1
    assert found.widest == pytest.approx(lead)


def test_the_lead_that_counts_is_that_over_the_choice_made():
    """Third best becomes best: that the second was near says nothing."""
    assert not agree({"x": [-2.0, -1.01, -0.99]}, {"x": [-1.0, -1.01, -2.0]}).equal


def test_log_probabilities_of_another_prompt_are_seen_where_the_choices_are_the_same():
    assert not agree({"a": [-1.2, -2.2], "b": [-3.2, -1.2]}, CHOICES).equal


@pytest.mark.parametrize(("score", "equal"), [(0.502, True), (0.498, True), (0.503, False), (0.49, False)])
def test_perplexities_agree_within_half_a_per_cent(score, equal):
    found = agree({"a": [-10.0]}, {"a": [-11.0]}, score, metric="word_perplexity")
    assert found.equal is equal


@pytest.mark.parametrize(("items", "right", "bits", "equal"), [
    (20, 19, 16, True), (20, 18, 16, False), (20, 19, 32, False), (100, 98, 32, True), (100, 97, 16, False),
])  # fmt: skip
def test_of_generated_answers_few_may_differ(items, right, bits, equal):
    texts = {str(number): "7" for number in range(items)}
    assert agree(texts, texts, right / items, 1.0, bits=bits).equal is equal


def test_a_missing_answer_is_no_agreement():
    assert not agree({"a": [-1.0, -2.0]}, CHOICES).equal


def test_other_choices_than_the_references_are_no_agreement():
    found = agree({"a": [-1.0, -2.0, -9.0], "b": [-3.0, -1.0]}, CHOICES)
    assert (found.equal, found.turned) == (False, 0)


def test_texts_are_the_same_or_not():
    found = agree({"a": "x", "b": "y"}, {"a": "x", "b": "z"}, 1.0, 1.0)
    assert (found.same_answers, found.turned, found.mean_difference) == (0.5, 1, None)


def test_unequal_answers_are_an_error_and_hf_is_the_reference_once_it_is_there():
    made = {"sglang": Column(model="sglang", tasks={"t": task(1.0)}), "x": Column(model="x", tasks={"t": task(0.5)})}
    turned = {"a": [-1.0, -2.0], "b": [-1.0, -3.0]}
    answers = {"sglang": {"t": turned}, "x": {"t": CHOICES}, "hf": {"t": CHOICES}}
    agreement.compare(made, answers, 16)
    assert (
        made["x"].tasks["t"].error.startswith("acc 0.5 beside sglang's 1: 1 other choices, by a lead of up to 2 nats")
    )

    made["hf"] = Column(model="hf", tasks={"t": task(0.5)})
    agreement.compare(made, answers, 16)

    assert made["x"].tasks["t"].error is None
    assert made["hf"].tasks["t"].agreement is None
    assert len(table.failures(make(made))) == 1
    assert table.failures(make(made))[0].startswith("sglang, t: acc 1 beside hf's 0.5")

    agreement.compare(made, answers | {"x": {"t": {"a": [-1.0, -2.0]}}}, 16)
    assert made["x"].tasks["t"].error == "the 1 items answered, or their choices, are not the 2 of hf"


def test_random_weights_are_timed_and_their_scores_not_compared():
    made = make({
        "sglang": Column(model="sglang", start_seconds=4, tasks={"sage_mmlu": task(0.5, 20.0)}),
        "sglang-sage:throughput": Column(model="x", start_seconds=4, tasks={"sage_mmlu": task(0.1, 2.0)}),
        "hf": Column(model="hf", absent=columns.absent("hf", random_weights=True)),
    })  # fmt: skip
    made.model["weights"] = "random"
    shown = table.markdown(made)
    assert "random weights mean nothing" in shown
    assert "reference" not in shown
    assert "10 × required: met" in shown
    assert "hf (has no random weights that are SGLang's)" in shown


@pytest.mark.parametrize(("dtype", "bits"), [("auto", 16), ("bfloat16", 16), ("half", 16), ("float32", 32)])
def test_the_tolerance_is_that_of_the_dtype(dtype, bits):
    assert columns.bits(dtype) == bits


def test_rates_are_compared_with_lm_evals_model_and_the_requirement_is_judged():
    ours, fidelity = (f"sglang-sage:{mode}" for mode in ("throughput", "fidelity"))
    made = make({
        "sglang": Column(model="sglang", start_seconds=4, tasks={"sage_mmlu": task(0.5, 20.0)}),
        ours: Column(model=ours, start_seconds=4, tasks={"sage_mmlu": task(0.5, 2.0)}),
        fidelity: Column(model=fidelity, start_seconds=4, tasks={"sage_mmlu": task(0.5, 10.0)}),
        "vllm": Column(model="vllm", absent="vllm not installed"),
    })  # fmt: skip
    assert table.ratios(made)["sage_mmlu"] == pytest.approx({"sglang": 1, ours: 10, fidelity: 2})
    shown = table.markdown(made)
    assert shown.startswith("## ")
    assert f"{ours}: 10.0 × lm-eval's `sglang`, 10 × required: met" in shown
    assert f"{fidelity}: 2.0 × lm-eval's `sglang`, 3.5 × required: **not met**" in shown
    assert "vllm (vllm not installed)" in shown
    assert made.evaluation[ours].tasks["sage_mmlu"].end_to_end(4) == pytest.approx(4 / (4 + 2 + 3))


def test_the_share_is_judged_and_shown():
    one = Round(
        plain=Pass(seconds=1.0, computed_tokens=600, cached_tokens=400),
        scored=Pass(seconds=1.25, computed_tokens=600, cached_tokens=400),
    )
    shown = table.markdown(make({}, rate={"fa3/fidelity": Rate(arguments={}, prompts=10, rounds=[one], share=0.8)}))
    assert "| fa3/fidelity | 10 × 100 | 40% / 40% | 600 | 480 | 80.0% (**not met**) |" in shown


def test_prompts_share_beginnings_by_subject_and_have_the_asked_length():
    prompts = rate.make_prompts(200, 700, 1000, seed=3)
    assert sum(map(len, prompts)) / 200 == pytest.approx(700, rel=0.05)
    assert len(set(prompts)) == 200
    assert prompts[0][:525] == prompts[9][:525] != prompts[10][:525]
    assert prompts == rate.make_prompts(200, 700, 1000, seed=3) != rate.make_prompts(200, 700, 1000, seed=4)


def test_every_model_scores_windows_of_the_same_length(tmp_path):
    def longest(name, key):
        return columns.arguments(name, tmp_path, 100, {"attention_backend": "fa3"}, {"dtype": "float32"})[key]

    assert [longest("sglang-sage:fidelity", "max_length"), longest("hf", "max_length")] == [100, 100]
    assert [longest("sglang", "max_model_len"), longest("vllm", "max_model_len")] == [101, 102]
    assert {longest(name, "dtype") for name in columns.MODELS} == {"float32"}


def test_the_stopwatch_spans_all_calls_and_ends_with_the_last_answer():
    watch = Stopwatch()
    assert watch.seconds == 0
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


def test_another_models_record_is_not_mixed_with_this_one(tmp_path):
    path = tmp_path / record.SCORING
    old = make({"hf": Column(model="hf")})
    write_json(path, old.model_dump(mode="json"))
    assert record.beside(path, make({}), ["client"]).evaluation == old.evaluation
    assert record.beside(path, make({}), ["evaluation"]).evaluation == {}
    with pytest.raises(UsageError, match="other model"):
        record.beside(path, make({}).model_copy(update={"model": {"name": "n"}}), ["client"])
    write_json(path, {"schema_version": 2})
    with pytest.raises(DataError, match="schema_version 2"):
        record.read(path)
