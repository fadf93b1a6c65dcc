"""Evaluation cells: what is asked, in which wording, at which length. Keys are never those of training.

OWN are the wordings of the project's retrieval task, OTHER are other people's and everyday ones, UNSEEN no training
sample ever had. LADDER makes one task harder in one respect at a time, until the exact model fails: there a damaged
attention shows first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import DataLoader, Dataset

from reference_model.recipe import wordings
from reference_model.recipe.haystack import Haystack
from reference_model.recipe.keys import evaluation_key
from reference_model.recipe.samples import Pair, Sampler, prompt_and_answer
from reference_model.recipe.tokenizer import Ids
from reference_model.recipe.wordings import Wording
from reference_model.recipe.words import Words, evaluation_words

Sample = tuple[Ids, Ids]
"""Prompt and answer."""


@dataclass(frozen=True)
class Cell:
    """`length` is prompt and answer in tokens; `near` of the other keys resemble the one asked for."""

    task: str
    group: str
    wording: Wording
    length: int
    kinds: Pair = ("words", "d7")
    needles: int = 1
    near: int = 0
    filler: str = "book"

    def samples(self, sampler: Sampler, count: int, seed: int) -> list[Sample]:
        """`count` samples, the first n of which are the same whatever `count`."""
        return [self._sample(sampler, np.random.default_rng([seed, self.length, number])) for number in range(count)]

    def _sample(self, sampler: Sampler, rng: np.random.Generator) -> Sample:
        if self.filler == "lines":
            return prompt_and_answer(sampler.listing(rng, self.length, self.wording, kinds=self.kinds, near=self.near))
        return prompt_and_answer(
            sampler.needle(
                rng,
                self.length,
                self.wording,
                needles=self.needles,
                kinds=self.kinds,
                near=self.near,
                filler=self.filler,
            )
        )


RULER, PAIRS = wordings.RULER, wordings.PAIRS
OWN = (
    Cell("single needle", "own", RULER, 0),
    Cell("needle among 8 others", "own", RULER, 0, needles=9),
    Cell("key -> value, digits", "own", PAIRS, 0, ("d8", "d8"), filler="lines"),
    Cell("key -> value, hexadecimal", "own", PAIRS, 0, ("h8", "h8"), filler="lines"),
)
OTHER = (
    Cell("RULER niah_single_1: repeated filler", "other", RULER, 0, filler="noise-lines"),
    Cell("RULER niah_single_3: a UUID", "other", RULER, 0, ("words", "uuid")),
    Cell("RULER niah_multikey_1: 4 needles", "other", RULER, 0, needles=4),
    Cell("RULER niah_multikey_2: needles as filler", "other", RULER, 0, filler="lines"),
    Cell("RULER niah_multikey_3: UUIDs as keys and values", "other", RULER, 0, ("uuid", "uuid"), filler="lines"),
    Cell("pass key", "other", wordings.PASS_KEY, 0, ("name", "d5")),
    Cell("office codes", "other", wordings.OFFICE, 0, ("name", "d5"), needles=4),
    Cell("key: value", "other", wordings.COLON, 0, filler="lines"),
    Cell("word values", "other", RULER, 0, ("words", "word")),
    Cell("LongEval lines", "other", wordings.LINES_OF_NUMBERS, 0, ("words", "d5"), filler="lines"),
    Cell("JSON of UUIDs", "other", wordings.JSON, 0, ("uuid", "uuid"), filler="lines"),
)
UNSEEN = (
    Cell("locker of a name", "unseen", wordings.UNSEEN_SENTENCE, 0, needles=4),
    Cell("price of a name", "unseen", wordings.UNSEEN_LINE, 0, ("words", "d5"), filler="lines"),
)
LENGTHS = (512, 1024, 2048, 4096, 8192)
NEAR = (1, 2, 4, 8, 16, 32)
LADDER = (
    *(
        Cell(f"{n} near line{'s' * (n > 1)}", "near keys", PAIRS, 2048, ("d8", "d8"), near=n, filler="lines")
        for n in NEAR
    ),
    Cell("8 near lines of JSON", "other wording", wordings.JSON, 2048, ("uuid", "uuid"), near=8, filler="lines"),
    *(Cell("8 near lines", "context", PAIRS, n, ("d8", "d8"), near=8, filler="lines") for n in (1024, 4096)),
    Cell("8 near lines, keys of 4 digits", "key length", PAIRS, 1024, ("d4", "d8"), near=8, filler="lines"),
    Cell("8 near lines, keys of 36 signs", "key length", PAIRS, 1024, ("uuid", "d8"), near=8, filler="lines"),
    *(Cell(f"{n} others", "distractors", RULER, 4096, needles=n + 1) for n in (8, 32, 128)),
    *(Cell(f"{n} near others", "near distractors", RULER, 4096, needles=n + 1, near=n) for n in (8, 32)),
)


def grid(lengths: tuple[int, ...] = LENGTHS) -> list[Cell]:
    """Own, other and unseen wordings at every length."""
    return [replace(cell, length=length) for cell in (*OWN, *OTHER, *UNSEEN) for length in lengths]


class CellSamples(Dataset[list[Sample]]):
    """Item i: the samples of cell i, for worker processes to make."""

    def __init__(
        self,
        cells: list[Cell],
        tokenizer_file: str,
        books: list[str],
        count: int,
        seed: int,
        words: Words | None = None,
    ) -> None:
        self._cells, self._file, self._books, self._words = cells, tokenizer_file, books, words
        self._count, self._seed = count, seed
        self._sampler: Sampler | None = None  # made in the worker process

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: int) -> list[Sample]:
        if index >= len(self._cells):
            raise IndexError(index)
        if self._sampler is None:
            self._sampler = evaluation_sampler(self._file, self._books, self._words)
        return self._cells[index].samples(self._sampler, self._count, self._seed)


def in_order(cells: CellSamples, workers: int) -> Iterable[list[Sample]]:
    """The samples of every cell, made by `workers` processes.

    They stay NumPy arrays: a tensor from another process holds a file descriptor, and these are thousands.
    """
    return DataLoader(cells, batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(samples: list[Sample]) -> list[Sample]:
    return samples


def evaluation_sampler(tokenizer_file: str, books: list[str], words: Words | None = None) -> Sampler:
    """Books as the haystack, keys of `words`: by default those that training never uses."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    words = words or evaluation_words()
    ids = [np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(books, add_special_tokens=False)]
    return Sampler(tokenizer, Haystack(tokenizer, np.concatenate(ids)), evaluation_key(words), words)
