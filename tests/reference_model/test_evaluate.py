"""The recipe's evaluation, of the shipped weights: what it counts, and what it does not add to."""

import json
import lzma

import pytest

from reference_model.recipe.__main__ import parser, run
from reference_model.recipe.evaluate import weights_hash
from sage_eval.errors import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def held_out(tmp_path_factory, prose, filler):
    """What `prepare` sets aside: an article and a book."""
    folder = tmp_path_factory.mktemp("data")
    article = {"text": prose[:4000], "words": len(prose[:4000].split()), "bytes": len(prose[:4000].encode())}
    book = " ".join((filler * 8).split())
    with lzma.open(folder / "held_out.json.xz", "wt", encoding="utf-8") as file:
        json.dump({"wikitext": [article], "books": {"book": book}}, file)
    return folder


@pytest.fixture(scope="module")
def evaluate(held_out):
    """`evaluate(file, parts, dtype)`: the results in `file` after the command, four samples a cell."""

    def command(file, parts="perplexity,retrieval", dtype="float32"):
        words = ["evaluate", "--data", str(held_out), "--out", str(file), "--parts", parts, "--dtype", dtype]
        run(parser().parse_args([*words, "--samples", "4", "--lengths", "512"]))
        return json.loads(file.read_text())

    return command


@pytest.fixture(scope="module")
def found(evaluate, tmp_path_factory):
    file = tmp_path_factory.mktemp("evaluation") / "found.json"
    return evaluate(file), file


def test_every_cell_is_scored_and_its_own_wordings_are_found(found):
    rows = found[0]["retrieval"]
    own = [row for row in rows if row["group"] == "own"]
    assert {row["right"] for row in own} == {row["n"] for row in rows} == {4}
    assert len({row["task"] for row in rows}) == len(rows) > len(own) == 4
    assert all(480 < row["mean_tokens"] <= 512 for row in own)


def test_perplexities_are_of_the_same_loss_by_token_word_and_byte(found):
    article = found[0]["perplexity float32"]["WikiText-2 test, first 1 articles"]["2048"]
    assert 1 < article["token_perplexity"] < 300
    assert article["word_perplexity"] > article["token_perplexity"] > 2 ** article["bits_per_byte"]


def test_what_is_there_is_kept_and_not_computed_again(found, evaluate, monkeypatch):
    monkeypatch.setattr("reference_model.recipe.evaluate.exact_matches", None)
    monkeypatch.setattr("reference_model.recipe.evaluate.token_losses", None)
    again = evaluate(found[1])
    assert (again["retrieval"], len(again["runs"])) == (found[0]["retrieval"], 2)


def test_an_evaluation_of_other_weights_is_not_added_to(found, evaluate, tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(found[0] | {"weights": "0" * 64}))
    with pytest.raises(UsageError, match="other weights"):
        evaluate(tmp_path / "old.json")


def test_a_ladder_has_one_dtype(found, evaluate, tmp_path):
    begun = {"plan": {"parts": ["ladder"], "dtype": "bfloat16"}}
    (tmp_path / "old.json").write_text(json.dumps(found[0] | {"runs": [begun]}))
    with pytest.raises(UsageError, match="not in float32"):
        evaluate(tmp_path / "old.json", parts="ladder")


def test_the_cards_numbers_are_of_the_shipped_weights(reference_model):
    card = json.loads((reference_model / "card" / "evaluation.json").read_text())
    assert card["weights"] == weights_hash(reference_model)
