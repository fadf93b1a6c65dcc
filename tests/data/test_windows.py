from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sage_eval.data.tokenizers import token_ids, tokenizer_of
from sage_eval.data.wikitext import rows
from sage_eval.data.windows import windows
from sage_eval.errors import PrerequisiteError, UsageError

WINDOW = 200


@pytest.fixture(scope="module")
def tokenizer(reference_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(reference_model)


@pytest.fixture(scope="module")
def raw(prose: str) -> str:
    """Articles of very different lengths, in the form of a WikiText file."""
    words = prose.split()
    bodies = [words[:900], words[900:960], words[960:]]
    return "".join(f" \n = Part {number} = \n \n {' '.join(body)} \n" for number, body in enumerate(bodies))


def test_windows_are_consecutive_pieces_of_the_joined_rows(tokenizer: Any, raw: str) -> None:
    joined = "\n\n".join(rows(raw))
    cut = windows(raw, tokenizer, WINDOW)
    text = "".join(window["context"] + window["continuation"] for window in cut)
    assert joined.startswith(text)
    assert len(token_ids(tokenizer, joined[len(text) :])) < WINDOW, "only a rest shorter than a window is dropped"


def test_a_model_scores_exactly_the_tokens_of_the_whole_text(tokenizer: Any, raw: str) -> None:
    ids = token_ids(tokenizer, "\n\n".join(rows(raw)))
    first = 0
    for window in windows(raw, tokenizer, WINDOW):
        head, whole = (
            token_ids(tokenizer, text) for text in (window["context"], window["context"] + window["continuation"])
        )
        assert whole == ids[first : first + window["length"]]
        assert whole[: len(head)] == head, "lm-eval scores what follows the context's tokens"
        assert window["tokens"] == len(whole) - len(head)
        assert window["context"] == window["context"].rstrip(), "lm-eval would move the space"
        first += window["length"]


def test_windows_are_nearly_full(tokenizer: Any, raw: str) -> None:
    lengths = [window["length"] for window in windows(raw, tokenizer, WINDOW)]
    assert max(lengths) <= WINDOW
    assert sum(lengths) / len(lengths) > WINDOW - 4


def test_the_cluster_is_the_article_with_most_of_the_window(tokenizer: Any, raw: str) -> None:
    cut = windows(raw, tokenizer, WINDOW)
    assert [window["document"] for window in cut] == sorted(window["document"] for window in cut)
    assert cut[0]["document"] == 0
    assert cut[-1]["document"] == 2
    titles = [number for number in range(3) if f" = Part {number} = " in cut[-1]["continuation"]]
    assert titles == [], "the last window lies within the last article"


def test_a_token_that_the_tokenizer_adds_takes_room_and_is_not_scored(reference_model: Path, raw: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_model)
    start = tokenizer.convert_ids_to_tokens(1)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 1)])
    first = windows(raw, tokenizer, WINDOW)[0]
    assert tokenizer(first["context"] + first["continuation"])["input_ids"][0] == 1
    assert first["length"] <= WINDOW - 1
    assert first["tokens"] == first["length"] - len(token_ids(tokenizer, first["context"]))


@pytest.mark.parametrize("style", ["pre-tokenizer", "normalizer"])
def test_a_tokenizer_that_marks_the_start_of_a_text_is_counted_as_a_model_will_see_it(raw: str, style: str) -> None:
    """SentencePiece's way (Llama 2, Mistral): a piece from the middle of a text can gain tokens when alone."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    if style == "normalizer":
        marks: list[normalizers.Normalizer] = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        learned.normalizer = normalizers.Sequence(marks)
        learned.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    else:
        learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learned.train_from_iterator([raw], trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, unk_token="<unk>")
    cut = windows(raw, tokenizer, WINDOW)
    joined = "\n\n".join(rows(raw))
    assert joined.startswith("".join(window["context"] + window["continuation"] for window in cut))
    for window in cut:
        head, whole = (
            token_ids(tokenizer, text) for text in (window["context"], window["context"] + window["continuation"])
        )
        assert window["tokens"] == len(whole) - len(head)
        assert len(whole) <= WINDOW


def test_a_window_too_small_to_cut_is_refused(tokenizer: Any, raw: str) -> None:
    with pytest.raises(UsageError, match="window=16"):
        windows(raw, tokenizer, 16)


def test_the_tokenizer_is_found_under_any_of_its_names(reference_model: Path) -> None:
    for key in ("tokenizer", "pretrained", "model", "model_path"):
        assert tokenizer_of({"batch_size": 1, key: str(reference_model)}, "task").vocab_size == 8192


def test_without_a_tokenizer_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sage_x .*--metadata"):
        tokenizer_of({"dtype": "float32"}, "sage_x")
    with pytest.raises(PrerequisiteError, match="no tokenizer at") as caught:
        tokenizer_of({"tokenizer": str(tmp_path)}, "sage_x")
    assert "\n" not in str(caught.value)
