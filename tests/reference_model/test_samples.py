"""Retrieval samples: what the tokenizer would make of their text, answerable, and of the length asked for."""

from dataclasses import replace

import numpy as np
import pytest

from reference_model.recipe import grammar, wordings
from reference_model.recipe.cells import LADDER, OTHER, OWN, UNSEEN, Cell
from reference_model.recipe.curriculum import retrieval_sample
from reference_model.recipe.samples import ANSWER, finish, prompt_and_answer
from reference_model.recipe.tokenizer import EOS
from reference_model.recipe.words import evaluation_words

CELLS = [*OWN, *OTHER, *UNSEEN, *LADDER]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.group}: {cell.task}")
def test_an_evaluation_prompt_holds_its_answer_once_and_is_canonical(examiner, tokenizer, cell):
    length = cell.length or 1024
    for prompt, answer in replace(cell, length=length).samples(examiner, 2, seed=5):
        text, value = tokenizer.decode(prompt.tolist()), tokenizer.decode(answer.tolist())
        assert text.count(value.strip()) == 1 or "word" in cell.task
        ids = [*prompt.tolist(), *answer.tolist()]
        assert tokenizer.encode(text + value).ids == ids
        assert 0.85 * length <= len(ids) <= length


def test_the_asked_key_is_told_with_the_asked_value(examiner, tokenizer):
    """In every wording the value that follows the key in the text is the answer."""
    for cell in (*OWN, *OTHER, *UNSEEN):
        (prompt, answer), = replace(cell, length=700).samples(examiner, 1, seed=7)  # fmt: skip
        text, value = tokenizer.decode(prompt.tolist()), tokenizer.decode(answer.tolist()).strip()
        before, after = (part.strip() for part in cell.wording.about(cell.kinds[1]).item.split("{v}"))
        told = text[: text.index(value)].rsplit(before.split("{k}")[-1] or "{k}", 1)[0]
        assert told.rstrip().endswith(key_of(cell, text)), (cell.task, text[-200:])
        assert text[text.index(value) + len(value) :].lstrip().startswith(after.strip())


def key_of(cell, text):
    """The key that the question or the beginning of the answer names."""
    before, after = cell.wording.about(cell.kinds[1]).answer.split("{v}")[0].split("{k}")
    return text.rsplit(before.strip() or "\n", 1)[1].removesuffix(after.rstrip()).strip()


def test_near_keys_differ_in_one_place(examiner, tokenizer):
    cell = next(cell for cell in LADDER if cell.task == "8 near lines")
    ((prompt, _),) = replace(cell, length=1024).samples(examiner, 1, seed=3)
    lines = tokenizer.decode(prompt.tolist()).splitlines()
    asked = lines[-1].split("What is the value for key ")[1][:8]
    keys = [line.split(" -> ")[0] for line in lines[1:-1]]
    assert sum(sum(a != b for a, b in zip(key, asked, strict=True)) == 1 for key in keys) == 8


@pytest.mark.parametrize("compose", [grammar.compose_sentence, grammar.compose_line])
def test_a_composed_wording_makes_canonical_prompts_that_hold_their_answer(examiner, tokenizer, compose):
    rng = np.random.default_rng(11)
    for number in range(120):
        wording = compose(rng)
        filler = "lines" if wording.is_line else "book"
        cell = Cell("composed", "test", wording, 640, (wording.keys[0], "d7"), needles=2, filler=filler)
        ((prompt, answer),) = cell.samples(examiner, 1, seed=number)
        text, value = tokenizer.decode(prompt.tolist()), tokenizer.decode(answer.tolist())
        assert text.count(value.strip()) == 1, wording
        assert tokenizer.encode(text + value).ids == [*prompt.tolist(), *answer.tolist()], wording


def test_statements_are_among_the_composed_sentences():
    rng = np.random.default_rng(3)
    items = {grammar.compose_sentence(rng).item for _ in range(400)}
    assert set(grammar.STATEMENTS) <= items
    assert wordings.UNSEEN_SENTENCE.item not in items


@pytest.mark.parametrize("near", [0.0, 1.0])
@pytest.mark.parametrize("varied", [0.0, 1.0])
@pytest.mark.parametrize("length", [96, 512, 2048])
def test_a_training_sample_has_answers_and_the_length_asked_for(sampler, length, varied, near):
    rng = np.random.default_rng(length)
    sizes = []
    for _ in range(30):
        pieces = retrieval_sample(sampler, rng, length, varied, near)
        assert any(weight == ANSWER for _, weight in pieces)
        ids, weights = finish(rng, pieces, 0.3)
        assert len(ids) == len(weights)
        assert ids[-1] == EOS
        assert weights[weights >= 32].sum() > 0
        sizes.append(len(ids))
    assert 0.6 * length <= np.median(sizes) <= length + 2


@pytest.mark.parametrize(("near", "found"), [(0.0, False), (1.0, True)])
def test_keys_like_the_one_asked_for_come_where_they_are_wanted(sampler, tokenizer, near, found):
    rng = np.random.default_rng(8)
    alike = 0
    for _ in range(60):
        pieces = retrieval_sample(sampler, rng, 1024, 0.0, near)
        text = tokenizer.decode(np.concatenate([ids for ids, _ in pieces]).tolist())
        keys = [line[:8] for line in text.splitlines() if line[8:12] == " -> " and line[:8].isdigit()]
        alike += any(sum(a != b for a, b in zip(one, two, strict=True)) == 1 for one in keys for two in keys)
    assert bool(alike) == found


def test_training_draws_no_evaluation_word(sampler, tokenizer, words):
    banned = evaluation_words()
    assert not {w.lower() for w in (*words.first, *words.names)} & {
        w.lower() for w in (*banned.first, *banned.second, *banned.names)
    }


def test_an_unseen_wording_is_in_no_training_list():
    trained = (
        wordings.RULER,
        *wordings.OWN_LINES,
        *wordings.OWN_SENTENCES,
        *wordings.NAMED_SENTENCES,
        *wordings.NAMED_LINES,
    )
    rng = np.random.default_rng(0)
    composed = [make(rng) for make in (grammar.compose_sentence, grammar.compose_line) for _ in range(500)]
    items = {wording.item for wording in (*trained, *composed)}
    assert not items & {wordings.UNSEEN_SENTENCE.item, wordings.UNSEEN_LINE.item}
    assert len(items) > 300


def test_the_same_seed_makes_the_same_sample(sampler):
    first, second = (
        np.concatenate([ids for ids, _ in retrieval_sample(sampler, np.random.default_rng(4), 300, 0.5, 0.5)])
        for _ in range(2)
    )
    assert (first == second).all()


def test_prompt_and_answer_cut_at_the_first_answer():
    pieces = [(np.array([5, 6]), 2), (np.array([7]), ANSWER), (np.array([8]), 2), (np.array([9]), ANSWER)]
    prompt, answer = prompt_and_answer(pieces)
    assert (prompt.tolist(), answer.tolist()) == ([5, 6], [7])
