import random
from pathlib import Path
from typing import Any

import pytest

from sage_eval.errors import DataError, UsageError
from tests.tasks.lms import HashLM, evaluate

FAMILIES = ("single", "multikey", "kv")
GRID = {"lengths": [256, 512], "depths": 3, "samples": 2, "distractors": 4, "haystack": "builtin"}


@pytest.fixture
def samples(load: Any) -> Any:
    """`samples(family, **metadata)`: the documents of a family."""

    def of(family: str, **metadata: Any) -> list[dict[str, Any]]:
        name = f"sage_retrieval_{family}"
        return list(load(name, **(GRID | metadata))["tasks"][name].eval_docs)

    return of


def test_prompts_are_the_same_in_any_task_order_and_whatever_the_global_generator_did(load: Any) -> None:
    names = [f"sage_retrieval_{family}" for family in FAMILIES]
    runs = []
    for seed, order in ((0, names), (1, names[::-1])):
        random.seed(seed)
        tasks = load(*order, **GRID)["tasks"]
        runs.append({name: list(tasks[name].eval_docs) for name in names})
    assert runs[0] == runs[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_grid_is_a_part_of_a_larger_one(samples: Any, family: str) -> None:
    larger = samples(family)
    assert all(sample in larger for sample in samples(family, lengths=[512], samples=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_draws_other_prompts(samples: Any, family: str) -> None:
    assert not {doc["input"] for doc in samples(family)} & {doc["input"] for doc in samples(family, seed=7)}


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_fill_their_length_and_leave_room_for_the_answer(
    samples: Any, reference_model: Path, family: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference_model)
    for doc in samples(family, lengths=[512, 1024]):
        tokens = len(tokenizer(f"{doc['input']} {doc['gen_prefix']}")["input_ids"])
        assert tokens == doc["tokens"]
        assert doc["length"] - 64 - 40 < tokens <= doc["length"] - 64


@pytest.mark.parametrize("family", FAMILIES)
def test_the_value_stands_once_in_the_prompt_at_the_depth_asked_for(samples: Any, family: str) -> None:
    for doc in samples(family, lengths=[1024], depths=[0.0, 0.5, 1.0]):
        assert doc["input"].count(doc["value"]) == 1
        assert doc["value"] not in doc["gen_prefix"]
        assert doc["input"].index(doc["value"]) / len(doc["input"]) == pytest.approx(doc["depth"], abs=0.2)


def test_distractors_have_other_keys_and_values(samples: Any) -> None:
    import re

    for doc in samples("multikey"):
        found = re.findall(r"magic numbers for (\S+) is: (\d{7})\.", doc["input"])
        assert len(found) == 1 + GRID["distractors"]
        assert len({key for key, _ in found}) == len({value for _, value in found}) == len(found)
        assert (doc["key"], doc["value"]) in found
    assert all(doc["input"].count("is: ") == 1 for doc in samples("single"))


def test_no_key_of_a_list_occurs_twice(samples: Any) -> None:
    for doc in samples("kv"):
        lines = [line.split(" -> ") for line in doc["input"].splitlines()[1:-1]]
        assert len({key for key, _ in lines}) == len(lines) > 5
        assert dict(map(tuple, lines))[doc["key"]] == doc["value"]


def test_near_keys_of_a_list_differ_in_one_digit(samples: Any) -> None:
    for doc in samples("kv", near=3):
        keys = [line.partition(" -> ")[0] for line in doc["input"].splitlines()[1:-1]]
        apart = [sum(a != b for a, b in zip(key, doc["key"], strict=True)) for key in keys]
        assert apart.count(0) == 1
        assert apart.count(1) >= 3
        assert len(set(keys)) == len(keys)


def test_near_distractors_share_the_adjective(samples: Any) -> None:
    import re

    for doc in samples("multikey", near=2):
        keys = re.findall(r"magic numbers for (\S+) is: \d{7}\.", doc["input"])
        assert len(set(keys)) == len(keys) == 1 + GRID["distractors"]
        assert sum(key.partition("-")[0] == doc["key"].partition("-")[0] for key in keys) >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_without_near_keys_the_prompts_are_those_of_before(samples: Any, family: str) -> None:
    assert samples(family, near=0) == samples(family)


def test_a_limit_takes_every_length_and_depth_in_turn(samples: Any) -> None:
    cells = [(doc["length"], doc["depth"]) for doc in samples("kv")]
    assert len(set(cells[:6])) == 6


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        (" 1234567", 1.0),
        (" 1,234,567", 1.0),
        ("**1234567** as the text says", 1.0),
        (" 12345678", 0.0),
        (" 123456", 0.0),
        (" 7654321, no, 1234567", 0.0),
        (" the value of 7777777 is 1234567", 1.0),
        ("", 0.0),
        (" unknown", 0.0),
    ],
)
def test_the_first_number_must_be_the_value(load: Any, answer: str, correct: float) -> None:
    task = load("sage_retrieval_kv", **(GRID | {"lengths": [256], "depths": 1, "samples": 1}))["tasks"][
        "sage_retrieval_kv"
    ]
    assert task.process_results({"key": "7777777", "value": "1234567"}, [answer]) == {"acc": correct}


def test_the_group_is_evaluated_with_a_standard_error(load: Any) -> None:
    tasks = load("sage_retrieval", **GRID)
    value = next(iter(tasks["tasks"].values())).eval_docs[0]["value"]
    lm = HashLM(generated=f" {value}.")
    run = evaluate(tasks, lm, log_samples=True)
    group = run["groups"]["sage_retrieval"]
    assert group["acc,none"] == pytest.approx(1 / 36)
    assert group["acc_stderr,none"] > 0
    doc = run["samples"]["sage_retrieval_kv"][0]["doc"]
    assert {"length", "depth", "family", "sample", "tokens"} <= doc.keys()
    context, arguments = lm.requests[0]
    assert context.endswith(" mentioned in the provided text is"), "RULER's answer prefix, after a single space"
    assert not arguments["do_sample"]


def test_the_environment_sets_the_grid_and_metadata_goes_before_it(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_EVAL_RETRIEVAL", '{"lengths": [300], "samples": 1, "depths": 2, "haystack": "builtin"}')
    docs = load("sage_retrieval_kv", depths=[0.5])["tasks"]["sage_retrieval_kv"].eval_docs
    assert [(doc["length"], doc["depth"]) for doc in docs] == [(300, 0.5)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [0]}, "lengths"),
        ({"depths": [1.5]}, "depths"),
        ({"samples": 0}, "samples"),
        ({"lengths": [150], "distractors": 20}, "too short for 21 needles"),
        ({"distractors": 2, "near": 3}, "near=3: of the 2 distractors"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line(samples: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        samples("multikey", **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ['{"length": [300]}', "[300]", "{lengths"])
def test_an_environment_that_is_not_understood_is_refused(
    samples: Any, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SAGE_EVAL_RETRIEVAL", value)
    with pytest.raises(UsageError, match="SAGE_EVAL_RETRIEVAL"):
        samples("kv")


def test_filler_comes_from_the_data_folder_where_it_has_some(small_data: Path, samples: Any) -> None:
    assert all("the crew sighted land. They did not stop" in doc["input"] for doc in samples("single", haystack=None))
    assert not any("the crew" in doc["input"] for doc in samples("single", haystack="builtin"))


def test_filler_from_a_text_file_without_sentences_is_refused(tmp_path: Path, samples: Any) -> None:
    (tmp_path / "words.txt").write_text("word " * 500)
    with pytest.raises(DataError, match=r"words\.txt.*50 sentences"):
        samples("single", haystack=str(tmp_path / "words.txt"))
