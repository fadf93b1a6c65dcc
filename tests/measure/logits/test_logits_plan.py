"""Which prompts and positions are chosen."""

import numpy as np
import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.measure.logits.plan import CLASSES, choose

DOCUMENTS = [list(range(1000 * i, 1000 * i + size)) for i, size in enumerate((300, 700, 5000, 6000, 90))]


def chosen(**changes):
    return choose(DOCUMENTS, **{"prompts": 4, "positions": 120, "longest": 4000, "seed": 0} | changes)


def test_every_class_gets_its_prompts_and_its_share_of_the_positions():
    prompts = chosen()
    assert [prompt.kind for prompt in prompts] == [kind for kind in CLASSES for _ in range(4)]
    for prompt in prompts:
        low, high = CLASSES[prompt.kind]
        assert low <= len(prompt.tokens) <= min(high, 4000)
        assert len(prompt.positions) == 10


def test_a_prompt_is_a_piece_of_its_document_after_the_head():
    for prompt in chosen(head=[7, 8]):
        body = DOCUMENTS[prompt.document]
        at = body.index(prompt.tokens[2])
        assert prompt.tokens == (7, 8, *body[at : at + len(prompt.tokens) - 2])


def test_each_tenth_of_a_prompt_has_one_of_ten_positions():
    for prompt in chosen():
        stretches = np.array_split(np.arange(len(prompt.tokens) - 1), 10)
        assert all(place in stretch for place, stretch in zip(prompt.positions, stretches, strict=True))
        assert prompt.targets == [prompt.tokens[place + 1] for place in prompt.positions]


def test_a_class_goes_through_all_its_documents_before_it_repeats_one():
    assert {prompt.document for prompt in chosen(prompts=5) if prompt.kind == "short"} == set(range(5))


def test_the_seed_decides():
    assert chosen() == chosen()
    assert chosen() != chosen(seed=1)


def test_a_short_model_has_no_long_class():
    assert {prompt.kind for prompt in chosen(longest=1000)} == {"short", "medium"}


def test_more_positions_than_tokens_are_all_of_them():
    for prompt in chosen(positions=100_000):
        assert prompt.positions == tuple(range(len(prompt.tokens) - 1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"positions": 11}, UsageError, "--positions 11 for 12 prompts"),
        ({"longest": 63}, UsageError, "at most 63 tokens"),
    ],
)
def test_what_leaves_a_class_empty_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        chosen(**changes)


def test_texts_that_are_too_short_for_a_class_are_refused():
    with pytest.raises(DataError, match="long prompt"):
        choose([[1] * 600], prompts=1, positions=3, longest=4000, seed=0)
