import numpy as np
import pytest

from sage_eval.errors import EngineError
from sage_eval.store import samples as records


def row(**values):
    base = {
        "doc_id": 3,
        "doc": {"subject": "colour", "question": "?", "depth": 0.5, "document": [1]},
        "target": 1,
        "arguments": [("Q", " A"), ("Q", " B")],
        "filtered_resps": [(-1.23456789, True), (-2.0, False)],
        "filter": "none",
        "metrics": ["acc"],
        "acc": 1.0,
    }
    return base | values


def keep(_task, _metric, value):
    return value if isinstance(value, float | tuple) else None


def convert(*rows, cell=()):
    return records.from_lm_eval({"task": list(rows)}, keep, {"task": cell})


def test_a_choice_keeps_its_numbers_and_its_cell():
    [sample], [prompt] = convert(row(), cell=("subject", "depth"))
    assert sample.logprobs == [-1.23457, -2.0]
    assert sample.greedy == [True, False]
    assert (sample.target, sample.metrics, sample.cell) == (1, {"acc": 1.0}, {"subject": "colour", "depth": 0.5})
    assert prompt == {"hash": sample.prompt, "task": "task", "doc_id": 3, "context": "Q", "requests": [[" A"], [" B"]]}


def test_each_prompt_is_stored_once():
    samples, prompts = convert(row(), row(doc_id=4), row(doc_id=5, arguments=[("R", " A"), ("R", " B")]))
    assert len(samples) == 3
    assert [prompt["doc_id"] for prompt in prompts] == [3, 5]


@pytest.mark.parametrize(
    "arguments",
    [
        [("Q", " A"), ("Q", " C")],
        [("Q", " B"), ("Q", " A")],
        [("q", " A"), ("q", " B")],
        [("Q", " A")],
        [("Q", {"until": ["\n"]})],
        [("Q", {"until": []})],
    ],
)
def test_the_hash_covers_everything_that_was_asked(arguments):
    assert records.prompt_hash(arguments) != records.prompt_hash([("Q", " A"), ("Q", " B")])


def test_tuples_and_lists_hash_alike():
    assert records.prompt_hash([("Q", " A")]) == records.prompt_hash([["Q", " A"]])


def test_long_texts_keep_their_ends():
    text = "a" * records.LONGEST_PROMPT + "b"
    _, [prompt] = convert(row(arguments=[("Q", text)], filtered_resps=[(-1.0, False)]))
    [[kept]] = prompt["requests"]
    assert kept["characters"] == len(text)
    assert kept["tail"] == text[-records.TAIL :]


def test_perplexity_pairs_are_kept_exactly_and_their_repetition_for_errors_is_not():
    values = {"metrics": ["p", "p_stderr"], "p": (-1234.56789, 7), "p_stderr": (-1234.56789, 7)}
    [sample], _ = convert(row(arguments=[("text",)], filtered_resps=[-1234.56789], target="x" * 5000, **values))
    assert sample.metrics == {"p": (-1234.56789, 7)}
    assert sample.target is None


def test_a_documents_own_columns_are_no_cell():
    """LongBench has `length: 4096`, LongBench v2 `length: short`."""
    [sample], _ = convert(row(doc={"length": "short", "document": "a", "cluster": 1, "depth": 0.5}))
    assert sample.cell == {}


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (["Paris", "Lutèce"], '["Paris", "Lutèce"]'),
        ({"text": ["a"], "start": [3]}, '{"text": ["a"], "start": [3]}'),
        (np.array([1, 2]), "[1, 2]"),
        (["x" * records.TAIL], None),
        (2.5, 2.5),
    ],
)
def test_a_target_that_is_a_list_or_a_dict_is_kept_as_json(target, kept):
    [sample], _ = convert(row(target=target))
    assert sample.target == kept


@pytest.mark.parametrize("filtered_resps", [[(float("nan"), False), (-2.0, False)], [float("-inf")]])
def test_log_probabilities_that_are_not_finite_are_an_error(filtered_resps):
    with pytest.raises(EngineError, match=r"task, item 3: .* is (nan|-inf)"):
        convert(row(filtered_resps=filtered_resps))


def test_a_metric_of_which_nothing_is_kept_is_missing():
    [sample], _ = convert(row(metrics=["acc", "f1"], f1="text"))
    assert sample.metrics == {"acc": 1.0}


def test_repeats_are_all_kept():
    generation = [("Q", {"until": []})]
    [sample], _ = convert(row(arguments=generation, filtered_resps=[["yes", "no"]], target="yes"))
    assert sample.generated == ["yes", "no"]
    [sample], _ = convert(row(filtered_resps=[[(-1.0, True), (-1.5, False)], [(-2.0, False), (-2.5, False)]]))
    assert (sample.logprobs, sample.greedy) == ([-1.0, -1.5, -2.0, -2.5], [True, False, False, False])


@pytest.mark.parametrize("response", [3, 2.5, None, True])
def test_what_a_filter_makes_of_a_text_is_no_log_probability(response):
    [sample], _ = convert(row(arguments=[("Q", {"until": []})], filtered_resps=[response]))
    assert (sample.generated, sample.logprobs) == ([str(response)], [])


def test_numbers_of_numpy_are_log_probabilities():
    [sample], _ = convert(row(filtered_resps=[(np.float32(-1.5), np.bool_(True)), (np.float32(-2.0), np.bool_(False))]))
    assert (sample.logprobs, sample.greedy) == ([-1.5, -2.0], [True, False])


def test_generated_text_is_kept():
    [sample], _ = convert(row(arguments=[("Q", {"until": []})], filtered_resps=["42"], target="42"))
    assert (sample.generated, sample.logprobs, sample.target) == (["42"], [], "42")
