"""Samples by column, whole and beside a baseline: what is read is what was written."""

import random

import pytest

from sage_eval.runs import columns
from sage_eval.runs.records import Sample


def sample(i, **values):
    fields = {"task": f"t{i % 2}", "doc_id": i // 2, "prompt": f"{i:032x}", "metrics": {"acc": float(i % 2)}}
    return Sample(**fields | values)


def arm(seed, noise):
    rng = random.Random(seed)
    choices = [
        sample(i, logprobs=[round((-i % 7 - c + rng.gauss(0, noise)) * 1e5) / 1e5 for c in range(i % 5)], greedy=[True])
        for i in range(200)
    ]
    text = sample(200, metrics={"p": (-rng.random(), 7)}, generated=[f" {seed}"], cell={"depth": 0.5})
    return [*choices, text]


@pytest.mark.parametrize("noise", [0.0, 1e-5, 0.3, 1e6])
def test_what_is_written_beside_a_baseline_is_read_back(noise):
    base, other = arm(1, 0.5), arm(2, noise)
    packed = columns.encode(other, ("digest", base))
    assert packed[0] == {"schema_version": 2, "items": 201, "baseline": "digest"}
    assert columns.decode(packed, base) == other
    assert columns.decode(columns.encode(other), []) == other


def test_the_same_answers_take_no_space():
    base = arm(1, 0.5)
    assert [line["column"] for line in columns.encode(base, ("digest", base))[1:]] == ["logprobs"]
    assert columns.encode(base, ("digest", base))[1]["differences"] == [str(sum(len(s.logprobs) for s in base))]


def test_an_arm_with_other_items_is_written_whole():
    base, other = arm(1, 0.5), arm(2, 0.1)[1:]
    packed = columns.encode(other, ("digest", base))
    assert packed[0]["baseline"] is None
    assert columns.decode(packed, base) == other


def test_numbers_with_other_digits_are_kept_as_they_are():
    old = [sample(0, logprobs=[-0.00123456, -1.0])]
    assert columns.decode(columns.encode(old), []) == old


def test_columns_that_do_not_fit_are_an_error():
    packed = columns.encode(arm(1, 0.5))
    packed[1]["values"].pop()
    with pytest.raises(ValueError, match="zip"):
        columns.decode(packed, [])
