import pytest

from sage_eval.errors import EngineError
from sage_eval.runs import records


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


def convert(*rows):
    return records.from_lm_eval({"task": list(rows)})


def test_a_choice_keeps_its_numbers_and_its_cell():
    [sample], [prompt] = convert(row())
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
    values = {"metrics": ["p", "p_stderr"], "p": (-1234.56789, 7, 2), "p_stderr": (-1234.56789, 7, 2)}
    [sample], _ = convert(row(arguments=[("text",)], filtered_resps=[-1234.56789], target="x" * 5000, **values))
    assert sample.metrics == {"p": (-1234.56789, 7)}
    assert sample.target is None


@pytest.mark.parametrize(
    "values",
    [
        {"filtered_resps": [(float("nan"), False), (-2.0, False)]},
        {"filtered_resps": [float("-inf")]},
        {"acc": float("nan")},
        {"acc": (float("nan"), 3)},
    ],
)
def test_numbers_that_are_not_finite_are_an_error(values):
    with pytest.raises(EngineError, match=r"task, item 3: .* is (nan|-inf)"):
        convert(row(**values))


def test_generated_text_is_kept():
    [sample], _ = convert(row(arguments=[("Q", {"until": []})], filtered_resps=["42"], target="42"))
    assert (sample.generated, sample.logprobs, sample.target) == (["42"], [], "42")
