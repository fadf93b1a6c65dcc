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


def test_a_control_below_the_exact_models_interval_is_bold_and_what_was_not_measured_is_named(copy):
    file = copy / "card" / "evaluation.json"
    evaluation = json.loads(file.read_text())
    row = {"group": "near keys", "task": "8 near lines", "length": 2048, "n": 200, "mean_tokens": 2000}
    evaluation["ladder"] = [
        row | {"model": "exact", "right": 190, "low": 0.91, "high": 0.97},
        row | {"model": "int8-fp16", "right": 188, "low": 0.90, "high": 0.966},
        row | {"model": "int4-fp16", "right": 150, "low": 0.69, "high": 0.80},
    ]
    file.write_text(json.dumps(evaluation))
    text = card(copy)
    assert "| 2,048 | 0.95 [0.91, 0.97] | 0.94 [0.90, 0.97] | **0.75 [0.69, 0.80]** |" in text
    assert "Not measured: 1 near line (2,048), 2 near lines (2,048)" in text
