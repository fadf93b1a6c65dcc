"""The card is what the generator makes of the committed records, and its figure draws them."""

import json
import shutil

import pytest

from reference_model.recipe.card import card, draw_curves, write_card


def test_the_committed_card_is_the_generators(reference_model):
    assert (reference_model / "README.md").read_text() == card(reference_model), (
        "the card was edited by hand, or its records changed: run `python -m reference_model.recipe card`"
    )


@pytest.fixture
def copy(reference_model, tmp_path):
    """A folder with the card's records and no weights."""
    shutil.copytree(reference_model / "card", tmp_path / "card")
    shutil.copy(reference_model / "config.json", tmp_path)
    return tmp_path


def test_a_number_in_a_record_is_the_number_in_the_card(copy):
    file = copy / "card" / "evaluation.json"
    evaluation = json.loads(file.read_text())
    row = evaluation["retrieval"][0]
    row |= {"right": 111, "n": 300, "low": 0.3174, "high": 0.4261}
    file.write_text(json.dumps(evaluation))
    write_card(copy)
    line = next(line for line in (copy / "README.md").read_text().splitlines() if line.startswith(f"| {row['task']} |"))
    assert "0.37 [0.32, 0.43]" in line


def test_the_figure_is_the_same_bytes_twice(copy):
    log = [json.loads(line) for line in (copy / "card" / "training.jsonl").read_text().splitlines()]
    for name in ("one.svg", "two.svg"):
        draw_curves(log, copy / name)
    one = (copy / "one.svg").read_bytes()
    assert one == (copy / "two.svg").read_bytes()
    assert b"held-out" in one or one.count(b"<path") > 20


def test_test_data_that_weights_have_seen_is_said(copy):
    file = copy / "card" / "data.json"
    data = json.loads(file.read_text())
    for left_out, words in ((True, "left out"), (False, "these weights have seen it")):
        file.write_text(json.dumps(data | {"left_out": left_out}))
        assert words in card(copy)
