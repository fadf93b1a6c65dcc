"""Text → tokenizer → token arrays, with every test set kept out; and the held-out text that evaluation reads."""

import csv
import json
import lzma
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from tokenizers import Tokenizer

from reference_model.recipe.arrays import write_array
from reference_model.recipe.overlap import Exclusion
from reference_model.recipe.text import clean_markdown, flatten, read_documents, typographic
from reference_model.recipe.tokenizer import encode_documents, save_for_transformers, train_tokenizer
from reference_model.recipe.wordings import vocabulary_sample
from reference_model.recipe.words import training_words
from sage_eval.data.wikitext import documents as wikitext_documents


class HeldOut(TypedDict):
    """`wikitext`: articles with `text`, `words`, `bytes`; `books`: their text by name."""

    wikitext: list[dict[str, str | int]]
    books: dict[str, str]


VALID_BOOKS, VALID_ARTICLES = 40, 12
"""Every so many a book or article is set aside for validation."""
BOOK_CHARACTERS = 900_000
"""Of each held-out book, for evaluation: some 220,000 tokens."""


@dataclass(frozen=True)
class Sources:
    """Folders of text. `tests` is a data folder of `sage-eval prepare`: its test data is kept out of training."""

    corpus: Path
    tests: Path | None = None
    tokenizer: Path | None = None


def prepare(sources: Sources, out: Path, *, vocabulary: int = 8192, least: int = 30, context: int = 8192) -> None:
    """Write `out`: tokenizer, words.json, meta.json, held_out.json.xz, and token arrays `.u16.xz`.

    The arrays: books, wiki and wiki_raw to train on, valid_books and valid_wiki to choose settings by: a few books and
    articles that training leaves out, so that no test set has a say in it (the tokenizer and the list of key words are
    made of all of them). `sources.tokenizer` takes an existing
    tokenizer.json; without it one of `vocabulary` entries is trained.
    """
    out.mkdir(parents=True, exist_ok=True)
    exclusion = Exclusion(test_sets(sources.tests)) if sources.tests else Exclusion({})
    books = exclusion.clean(clean_markdown(text) for text in read_documents(sources.corpus))
    articles = wikitext_documents(raw_wikitext(sources.tests, "valid")) if sources.tests else []
    articles = exclusion.clean(articles)
    books = [typographic(book) if number % 2 else book for number, book in enumerate(books)]
    wiki = [detokenized(article) for article in articles]

    words = training_words(books, least)
    (out / "words.json").write_text(json.dumps(asdict(words)))
    if sources.tokenizer:
        tokenizer = Tokenizer.from_file(str(sources.tokenizer))
    else:
        tokenizer = train_tokenizer(_tokenizer_text(books, wiki, articles), vocabulary)
    save_for_transformers(tokenizer, out, context)

    valid_books, books = _set_aside(books, VALID_BOOKS)
    valid_wiki, wiki = _set_aside(wiki, VALID_ARTICLES)
    _, articles = _set_aside(articles, VALID_ARTICLES)
    random.Random(0).shuffle(books)
    held_out: HeldOut = {"wikitext": [], "books": {"sample": books[0]}}
    if sources.tests:
        held_out = held_out_text(sources.tests)
    with lzma.open(out / "held_out.json.xz", "wt", encoding="utf-8") as file:
        json.dump(held_out, file)
    arrays = {
        "books": encode_documents(tokenizer, books),
        "wiki": encode_documents(tokenizer, wiki or books[:1]),
        "wiki_raw": encode_documents(tokenizer, articles or books[:1]),
        "valid_books": encode_documents(tokenizer, valid_books or books[:1]),
        "valid_wiki": encode_documents(tokenizer, valid_wiki or books[:1]),
    }
    for name, array in arrays.items():
        write_array(out / f"{name}.u16.xz", array)
    meta = {
        "documents": len(books),
        "validation": {"books": len(valid_books), "articles": len(valid_wiki)},
        "characters": sum(map(len, books)),
        "wikitext_articles": len(wiki),
        "tokens": {name: len(array) for name, array in arrays.items()},
        "key_words": len(words.first),
        "key_names": len(words.names),
        "exclusion": exclusion.report.as_dict(),
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _set_aside(documents: list[str], every: int) -> tuple[list[str], list[str]]:
    """Every `every`th document, and the others."""
    return documents[every - 1 :: every], [text for number, text in enumerate(documents, 1) if number % every]


def raw_wikitext(folder: Path, split: str) -> str:
    """The raw WikiText-2 file; `split` is `test` or `valid`."""
    return (folder / "wikitext2" / f"wiki.{split}.raw").read_bytes().decode()


def detokenized(page: str) -> str:
    """An article as lm-eval's `wikitext` task shows it to a model: its ` @-@ ` and ` , ` undone."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    text: str = wikitext_detokenizer({"page": page})
    return text


def test_sets(folder: Path) -> dict[str, list[str]]:
    """Every text that evaluations use, by test set."""
    questions = []
    for path in sorted((folder / "mmlu" / "test").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            questions += [" ".join(row[:5]) for row in csv.reader(file)]
    raw = raw_wikitext(folder, "test")
    tests = {"WikiText-2 test": [raw, *wikitext_documents(raw)], "MMLU test": questions}
    for path in sorted((folder / "haystack").glob("*.txt")):
        tests[path.stem] = [path.read_text(encoding="utf-8")]
    return {name: texts for name, texts in tests.items() if texts}


def held_out_text(folder: Path) -> HeldOut:
    """What evaluation reads: WikiText-2 test articles with lm-eval's counts of words and bytes; books as one line."""
    articles: list[dict[str, str | int]] = [
        {"text": detokenized(page), "words": len(re.split(r"\s+", page)), "bytes": len(page.encode())}
        for page in wikitext_documents(raw_wikitext(folder, "test"))
    ]
    books = {
        path.stem: flatten(path.read_text(encoding="utf-8"))[:BOOK_CHARACTERS]
        for path in sorted((folder / "haystack").glob("*.txt"))
    }
    return {"wikitext": articles, "books": books}


def _tokenizer_text(books: list[str], wiki: list[str], articles: list[str]) -> Iterator[str]:
    """Training text in paragraphs; WikiText often, for modern words, and the wordings so often that each is a token."""
    for documents, times in ((books, 1), (wiki, 4), (articles, 1), ([vocabulary_sample()], 3000)):
        for _ in range(times):
            for document in documents:
                yield from re.split(r"(?<=\n)(?=\S)", document)
