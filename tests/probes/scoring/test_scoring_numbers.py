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


def test_equal_answers_agree_and_their_differences_are_averaged():
    found = agreement.agreement("hf", "acc", 0.5, 0.5, {"a": [-1.5, -2.0], "b": [-3.0, -1.0]}, CHOICES)
    assert found.equal
    assert (found.same_answers, found.mean_difference, found.largest_difference) == (1.0, 0.125, 0.5)


@pytest.mark.parametrize(
    ("metric", "score", "equal"),
    [("acc", 0.515, True), ("acc", 0.53, False), ("word_perplexity", 0.502, True), ("word_perplexity", 0.49, False)],
)
def test_scores_beyond_the_tolerance_are_unequal(metric, score, equal):
    answers = {str(number): [-1.0, -2.0] for number in range(1000)}
    assert agreement.agreement("hf", metric, score, 0.5, answers, answers).equal is equal


def test_a_few_items_may_turn_where_there_are_few():
    answers = {str(number): [-1.0, -2.0] for number in range(10)}
    assert agreement.agreement("hf", "acc", 0.8, 0.5, answers, answers).equal
    assert not agreement.agreement("hf", "acc", 0.9, 0.5, answers, answers).equal


def test_a_missing_answer_is_no_agreement():
    assert not agreement.agreement("hf", "acc", 0.5, 0.5, {"a": [-1.0, -2.0]}, CHOICES).equal


def test_texts_are_the_same_or_not():
    found = agreement.agreement("hf", "acc", 1.0, 1.0, {"a": "x", "b": "y"}, {"a": "x", "b": "z"})
    assert (found.same_answers, found.mean_difference) == (0.5, None)


def test_an_unequal_score_is_an_error_and_hf_is_the_reference_once_it_is_there():
    made = {"sglang": Column(model="sglang", tasks={"t": task(9.0)}), "x": Column(model="x", tasks={"t": task(0.5)})}
    answers = {name: {"t": CHOICES} for name in ("sglang", "x", "hf")}
    agreement.compare(made, answers)
    assert made["x"].tasks["t"].error == "acc 0.5 is not sglang's 9"

    made["hf"] = Column(model="hf", tasks={"t": task(0.5)})
    agreement.compare(made, answers)

    assert made["x"].tasks["t"].error is None
    assert made["hf"].tasks["t"].agreement is None
    assert table.failures(make(made)) == ["sglang, t: acc 9 is not hf's 0.5"]


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
    assert "| fa3/fidelity | 10 × 100 | 40% | 600 | 480 | 80.0% (**not met**) |" in shown


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
