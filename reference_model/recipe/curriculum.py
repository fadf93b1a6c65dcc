"""What a training batch is made of, stage by stage. Batch i of a stage is a pure function of (seed, stage, i).

Retrieval does not appear by itself in a model of this size: the first stage is mostly repeated random tokens and short
retrieval samples with many answers a row, and ends as soon as answers are predicted. From then on wordings vary and
most of the text is natural; samples grow to the whole context in the last stage.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from reference_model.recipe import grammar, wordings
from reference_model.recipe.haystack import Haystack
from reference_model.recipe.keys import training_key
from reference_model.recipe.samples import NONE, TEXT, Pair, Piece, Sampler, finish
from reference_model.recipe.tokenizer import BOS, Ids
from reference_model.recipe.words import Words

Rows = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]


@dataclass
class Stage:
    """`share` is the part of the whole schedule; a retrieval row is filled with samples of one length of `sizes`."""

    name: str
    share: float
    length: int
    rows: int
    retrieval: float  # share of rows
    copying: float  # share of rows
    varied: float  # share of the retrieval samples that have other than the project's and RULER's wordings
    near: float = 0.0  # share of the retrieval samples in which other keys resemble the one asked for
    sizes: dict[int, float] = field(default_factory=dict)
    answers: float = 0.3  # share of a retrieval sample's loss weight that its answers have
    wikitext: float = 0.01  # share of natural rows that come from WikiText-2 validation
    dropout: bool = True  # whether the run's dropout applies: copying is not learnt under it
    leave: float = 0.0  # on to the next stage once the mean answer loss (nats a token) is below this


STAGES = (
    Stage("seed", 0.22, 1024, 32, 0.35, 0.35, 0.0, sizes={96: 0.2, 128: 0.3, 256: 0.3, 512: 0.2},
          answers=0.5, leave=0.5, dropout=False),
    Stage("short", 0.38, 2048, 32, 0.30, 0.04, 0.55, 0.3, sizes={256: 0.2, 512: 0.25, 1024: 0.25, 2048: 0.3},
          answers=0.4, wikitext=0.015),
    Stage("long", 0.40, 8192, 8, 0.34, 0.0, 0.55, 0.3,
          sizes={512: 0.1, 1024: 0.15, 2048: 0.2, 4096: 0.27, 8192: 0.28}, answers=0.3, wikitext=0.02),
)  # fmt: skip
SMOKE_STAGES = (
    Stage("seed", 0.5, 96, 4, 0.35, 0.35, 0.0, sizes={96: 1.0}, answers=0.5, dropout=False),
    Stage("long", 0.5, 256, 2, 0.5, 0.0, 0.5, 0.5, sizes={128: 0.5, 256: 0.5}),
)


# Kinds of keys and values of the project's own lists, as often as they stand here.
LINE_KINDS: list[Pair] = [("words", "d7")] * 2 + [("words", "word"), ("d8", "d7"), ("h8", "h8"), ("uuid", "uuid")]
PAIR_KINDS: list[Pair] = [("d8", "d8"), ("h8", "h8")] * 3 + [("words", "d7"), ("d8", "h8"), ("h8", "d8")]
PAIR_KINDS += [("words", "word"), ("uuid", "uuid")]


@dataclass
class Corpus:
    """Token arrays and key words, as `prepare` wrote them."""

    tokenizer: Tokenizer
    books: Ids
    wiki: Ids
    wiki_raw: Ids
    words: Words


class Batches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batch i: token ids, uint16 [rows, length + 1], and loss weights in eighths, uint8 likewise."""

    def __init__(self, corpus: Corpus, stage: Stage, number: int, seed: int) -> None:
        self._corpus, self._stage, self._number, self._seed = corpus, stage, number, seed
        self._sampler: Sampler | None = None  # made in the worker process

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        stage, rng = self._stage, np.random.default_rng([self._seed, self._number, index])
        rows = [self._row(rng, (row + rng.random()) / stage.rows) for row in range(stage.rows)]  # the same mix in each
        return torch.from_numpy(np.stack([ids for ids, _ in rows])), torch.from_numpy(np.stack([w for _, w in rows]))

    def _row(self, rng: np.random.Generator, kind: float) -> Rows:
        stage, sampler, length = self._stage, self.sampler, self._stage.length + 1
        if kind < stage.retrieval:
            size = int(rng.choice(list(stage.sizes), p=list(stage.sizes.values())))

            def retrieval(left: int) -> Rows:
                wanted = min(left, int(size * rng.uniform(0.7, 1.15)))
                wanted = left if left - wanted < 128 else wanted
                return finish(rng, retrieval_sample(sampler, rng, wanted, stage.varied, stage.near), stage.answers)

            return self._packed(rng, length, retrieval)
        if kind < stage.retrieval + stage.copying:
            return self._packed(
                rng, length, lambda left: finish(rng, sampler.copying(rng, min(left, int(rng.integers(48, 400)))), 0.3)
            )
        return self._natural(rng, length)

    @property
    def sampler(self) -> Sampler:
        if self._sampler is None:
            c = self._corpus
            self._sampler = Sampler(c.tokenizer, Haystack(c.tokenizer, c.books), training_key(c.words), c.words)
        return self._sampler

    def _natural(self, rng: np.random.Generator, length: int) -> Rows:
        source = self._corpus.books
        if rng.random() < self._stage.wikitext:
            source = self._corpus.wiki if rng.random() < 0.75 else self._corpus.wiki_raw
        start = int(rng.integers(0, max(1, len(source) - length)))
        ids = np.resize(source[start : start + length], length)
        if source is self._corpus.books and rng.random() < 0.2:  # some of it as one line, as haystacks are
            flat = self.sampler.haystack.passage(rng, length)
            ids = flat if len(flat) == length else ids
        ids = ids.copy()
        if rng.random() < 0.3:
            ids[0] = BOS
        return ids, np.where(ids == BOS, NONE, TEXT).astype(np.uint8)  # <s> is never to be predicted

    def _packed(self, rng: np.random.Generator, length: int, make: Callable[[int], Rows]) -> Rows:
        """Samples one after the other, book text in what is left."""
        ids: list[npt.NDArray[np.uint16]] = []
        weights: list[npt.NDArray[np.uint8]] = []
        left = length
        while left >= 96:
            sample, weight = make(left)
            if len(sample) > left:
                break
            ids.append(sample)
            weights.append(weight)
            left -= len(sample)
        rest = np.resize(self.sampler.haystack.passage(rng, left), left) if left else np.empty(0, np.uint16)
        return np.concatenate([*ids, rest]), np.concatenate([*weights, np.full(left, TEXT, np.uint8)])


def retrieval_sample(
    sampler: Sampler, rng: np.random.Generator, length: int, varied: float, near: float
) -> list[Piece]:
    """One sample of about `length` tokens: half needles in prose, a sixth needles as lines, the rest lists of pairs."""
    alike = int(rng.integers(1, 9)) if rng.random() < near else 0
    dense = int(np.clip(length // 100, 1, 12))  # more questions where there is room for more needles
    other = rng.random() < varied
    kind = rng.random()
    if kind < 0.5:
        needles = max(1, min(int(rng.choice([1, 1, 1, 2, 3, 4, 6, 8, 9, 12, 16, 20])), length // 60))
        asked = int(rng.integers(1, min(needles, dense) + 1))
        filler = str(rng.choice(["book", "noise", "noise-lines"], p=[0.88, 0.06, 0.06]))
        wording = _sentence(rng, other)
        kinds = _fitting(rng, length, [(key, value) for key in wording.keys for value in wording.values])
        alike = min(alike, needles - 1)
        return sampler.needle(
            rng, length, wording, needles=needles, asked=asked, kinds=kinds, near=alike, filler=filler
        )
    options = LINE_KINDS
    if kind < 0.65:
        wording = _sentence(rng, other)
    elif other:
        named = rng.random() < 0.5
        wording = _one(rng, wordings.NAMED_LINES) if named else grammar.compose_line(rng)
    else:
        wording, options = _one(rng, wordings.OWN_LINES), PAIR_KINDS
    options = [(key, value) for key in wording.keys for value in wording.values] if other else options
    kinds = _fitting(rng, length, options)
    asked = int(rng.integers(1, 2 * dense + 1))
    return sampler.listing(rng, length, wording, asked=asked, kinds=kinds, near=min(alike, length // 200))


def _sentence(rng: np.random.Generator, other: bool) -> wordings.Wording:
    if other:
        return _one(rng, wordings.NAMED_SENTENCES) if rng.random() < 0.3 else grammar.compose_sentence(rng)
    return wordings.RULER if rng.random() < 0.6 else _one(rng, wordings.OWN_SENTENCES)


def _one(rng: np.random.Generator, options: tuple[wordings.Wording, ...]) -> wordings.Wording:
    return options[int(rng.integers(len(options)))]


def _fitting(rng: np.random.Generator, length: int, options: list[Pair]) -> Pair:
    """Kinds of key and value; a short sample has no room for UUIDs."""
    kinds = options[int(rng.integers(len(options)))]
    return ("words", "d7") if "uuid" in kinds and length < 400 else kinds
