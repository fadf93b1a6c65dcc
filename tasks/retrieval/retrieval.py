"""Retrieval from long prompts: a needle in text, a needle among distractors, a value in a list of keys.

The wordings are RULER's (Hsieh et al. 2024, arXiv:2404.06654: niah_single, niah_multikey) and, for the list, the
key-value form of Liu et al. 2023 (arXiv:2307.03172). Each sample is drawn from a generator of its own, seeded by what
names the sample; so the prompts are the same for every arm, task list, order and `--limit`, given the tokenizer.
"""

import json
import os
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, islice, repeat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sage_eval.data import data_dir
from sage_eval.data.tokenizers import token_ids, tokenizer_of
from sage_eval.errors import DataError, UsageError

Family = Literal["single", "multikey", "kv"]
Share = Annotated[float, Field(ge=0, le=1)]
ENV = "SAGE_EVAL_RETRIEVAL"
RESERVE = 64
"""Tokens of a length left for the answer (at most 32) and a chat template's marks."""

NEEDLE = "One of the special magic numbers for {key} is: {value}."
NEEDLE_HEAD = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n"
)
NEEDLE_QUESTION = "\nWhat is the special magic number for {key} mentioned in the provided text?"
NEEDLE_PREFIX = "The special magic number for {key} mentioned in the provided text is"
LIST_HEAD = "Below is a list of key -> value pairs. Memorize it. I will ask for the value of one key afterwards.\n"
LIST_LINE = "{key} -> {value}"
LIST_QUESTION = "\nWhat is the value for key {key}?"
LIST_PREFIX = "The value for key {key} is"


class Parameters(BaseModel):
    """The grid. Each is a key of `--metadata`, or of the JSON object in SAGE_EVAL_RETRIEVAL."""

    model_config = ConfigDict(frozen=True)

    lengths: list[Annotated[int, Field(ge=1)]] = Field(
        [1024, 2048, 4096], min_length=1, description="prompt lengths in the model's tokens"
    )
    depths: Annotated[int, Field(ge=1)] | Annotated[list[Share], Field(min_length=1)] = Field(
        5, description="depths of the needle, 0 the start and 1 the end: how many, or a list"
    )
    samples: int = Field(5, ge=1, description="samples in each cell of length and depth")
    distractors: int = Field(8, ge=0, description="further needles, with other keys, in the multikey family")
    near: int = Field(
        0, ge=0, description="keys that resemble the one asked for: one digit (kv) or the noun (multikey) is another"
    )
    seed: int = Field(2024, description="another seed draws other prompts")
    haystack: str | None = Field(
        None, description="text file or folder of .txt files, or 'builtin'; default: haystack/ of the data folder"
    )

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> "Parameters":
        """From the environment and, before it, a task's metadata; `UsageError` names a key that cannot be used."""
        try:
            values = json.loads(os.environ.get(ENV) or "{}")
            if not isinstance(values, dict) or not values.keys() <= cls.model_fields.keys():
                raise UsageError(f"{ENV}={values}: it takes a JSON object with keys {', '.join(cls.model_fields)}")
            return cls.model_validate(values | {key: metadata[key] for key in cls.model_fields if key in metadata})
        except json.JSONDecodeError as error:
            raise UsageError(f'{ENV} is not JSON ({error}); write for instance {{"lengths": [1024, 2048]}}') from None
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"retrieval {first['loc'][0]}={first['input']!r}: {first['msg']}") from None

    def depth_grid(self) -> list[float]:
        """Depths between 0 and 1, evenly spaced where only their number is given."""
        if isinstance(self.depths, list):
            return self.depths
        return [round(step / max(1, self.depths - 1), 4) for step in range(self.depths)]


def load(family: Family, **metadata: Any) -> Any:
    """All samples of a family, for lm-eval's `custom_dataset`; a `--limit` takes all lengths and depths in turn."""
    from datasets import Dataset, DatasetDict

    parameters = Parameters.of(metadata)
    tokenizer = tokenizer_of(metadata, f"sage_retrieval_{family}")
    text = haystack(parameters.haystack)
    samples = [
        build(family, length, depth, sample, parameters, tokenizer, text)
        for sample in range(parameters.samples)
        for depth in parameters.depth_grid()
        for length in parameters.lengths
    ]
    return DatasetDict({"test": Dataset.from_list(samples)})


load.task_args = tuple(Parameters.model_fields)  # type: ignore[attr-defined]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 where the first number of the answer, other than the key asked for, is the value; else 0."""
    answer = re.sub(r"(?<=\d),(?=\d)", "", results[0])
    first = next((number for number in re.findall(r"\d+", answer) if number != doc["key"]), None)
    return {"acc": float(first == doc["value"])}


def build(
    family: Family,
    length: int,
    depth: float,
    sample: int,
    parameters: Parameters,
    tokenizer: Any,
    text: "Haystack",
) -> dict[str, Any]:
    """One sample: as much filler as `length` − 64 tokens hold, the pair asked for at `depth` of it.

    Raises `UsageError` where the pairs and the question alone are longer than that.
    """
    rng = random.Random(f"{parameters.seed}/{family}/{length}/{depth}/{sample}")
    asked, *others = _pairs(rng, family, 1 if family == "single" else 1 + parameters.distractors)
    if parameters.near and family != "single":
        others = _resembling(rng, family, asked, others, parameters.near)
    if family == "kv":
        line, head, question, prefix = LIST_LINE, LIST_HEAD, LIST_QUESTION, LIST_PREFIX
        filler, join = _lines(rng, [asked, *others]), "\n"
    else:
        line, head, question, prefix = NEEDLE, NEEDLE_HEAD, NEEDLE_QUESTION, NEEDLE_PREFIX
        filler, join = text.sentences_in_order(rng), " "
    places = [(depth, asked), *((rng.random(), pair) for pair in others)]
    question, prefix = question.format(key=asked[0]), prefix.format(key=asked[0])
    limit = length - RESERVE
    pieces, sizes = _enough(filler, limit, join, tokenizer)

    def render(count: int) -> str:
        parts = pieces[:count]
        for place, (key, value) in sorted(places, reverse=True):
            parts.insert(round(place * count), line.format(key=key, value=value))
        return head + join.join(parts) + question

    def tokens(prompt: str) -> int:
        return len(tokenizer(f"{prompt} {prefix}", verbose=False)["input_ids"])

    prompt, used = _longest(render, sizes, limit, tokens)
    if used > limit:
        raise UsageError(
            f"retrieval length {length} is too short for {1 + len(others)} needles: they take {used} tokens"
        )
    return {
        "input": prompt,
        "gen_prefix": prefix,
        "key": asked[0],
        "value": asked[1],
        "family": family,
        "length": length,
        "depth": float(depth),
        "sample": sample,
        "tokens": used,
    }


def _longest(
    render: Callable[[int], str], sizes: list[int], limit: int, tokens: Callable[[str], int]
) -> tuple[str, int]:
    """The prompt with the most pieces that fits, and its tokens; without any piece where nothing fits.

    `sizes` only guides the search: what a piece takes depends on its neighbours, so the prompt itself is counted.
    """
    totals = [0, *accumulate(sizes)]
    count, used = 0, tokens(render(0))
    for _ in range(2):
        count = bisect_right(totals, totals[count] + max(0, limit - used)) - 1
        used = tokens(render(count))
    while used > limit and count:
        count -= 1
        used = tokens(render(count))
    return render(count), used


def _enough(filler: Iterator[str], limit: int, join: str, tokenizer: Any) -> tuple[list[str], list[int]]:
    """Pieces of filler that together exceed `limit` tokens, and the tokens of each."""
    pieces: list[str] = []
    sizes: list[int] = []
    while sum(sizes) <= limit:
        batch = list(islice(filler, 64))
        pieces += batch
        sizes += [len(token_ids(tokenizer, join + piece)) for piece in batch]
    return pieces, sizes


def _pairs(rng: random.Random, family: Family, count: int) -> list[tuple[str, str]]:
    """Pairs of different keys and values: adjective-noun and seven digits, or eight digits each in a list."""
    if family == "kv":
        return [(_digits(rng, 8), _digits(rng, 8))]  # the others are the list's own lines
    adjectives, nouns = _words()
    chosen = rng.sample(range(len(adjectives) * len(nouns)), count)
    keys = [f"{adjectives[number // len(nouns)]}-{nouns[number % len(nouns)]}" for number in chosen]
    return list(zip(keys, map(str, rng.sample(range(10**6, 10**7), count)), strict=True))


def _resembling(
    rng: random.Random, family: Family, asked: tuple[str, str], others: list[tuple[str, str]], near: int
) -> list[tuple[str, str]]:
    """`others` with `near` keys that resemble the asked one: of a list further lines, of needles the first of them."""
    if family == "kv":
        changed = [(place, digit) for place in range(1, len(asked[0])) for digit in "0123456789"]
        changed = [(place, digit) for place, digit in changed if asked[0][place] != digit]
        if near > len(changed):
            raise UsageError(f"retrieval near={near}: an eight-digit key has {len(changed)} that differ in one digit")
        keys = [asked[0][:place] + digit + asked[0][place + 1 :] for place, digit in rng.sample(changed, near)]
        return [*others, *((key, _digits(rng, 8)) for key in keys)]
    adjective = asked[0].partition("-")[0]
    taken = {asked[0], *(key for key, _ in others)}
    keys = [key for other in _words()[1] if (key := f"{adjective}-{other}") not in taken]
    if near > min(len(others), len(keys)):
        raise UsageError(f"retrieval near={near}: of the {len(others)} distractors at most {len(keys)} can resemble")
    keys = rng.sample(keys, near)
    return [(key, value) for key, (_, value) in zip(keys, others, strict=False)] + others[near:]


def _lines(rng: random.Random, pairs: list[tuple[str, str]]) -> Iterator[str]:
    """Lines of the list, without end; no key twice, those of `pairs` included."""
    seen = {key for key, _ in pairs}
    while True:
        key = _digits(rng, 8)
        if key not in seen:
            seen.add(key)
            yield LIST_LINE.format(key=key, value=_digits(rng, 8))


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(10 ** (count - 1), 10**count))


@cache
def _words() -> tuple[list[str], list[str]]:
    adjectives, nouns = (Path(__file__).parent / "words.txt").read_text().split("\n\n")
    return adjectives.split(), nouns.split()


@dataclass(frozen=True)
class Haystack:
    """Filler sentences. A book's are taken in its order from anywhere, loose ones in random order, both without end."""

    sentences: list[str]
    is_book: bool

    def sentences_in_order(self, rng: random.Random) -> Iterator[str]:
        """An endless sequence, fixed by `rng`."""
        if self.is_book:
            start = rng.randrange(len(self.sentences))
            yield from chain(self.sentences[start:], chain.from_iterable(repeat(self.sentences)))
        while True:
            yield from rng.sample(self.sentences, len(self.sentences))


def haystack(source: str | None) -> Haystack:
    """The filler: `source` (a .txt file, a folder of them, or "builtin"), else the data folder's, else the built-in."""
    if source == "builtin" or (source is None and (data_dir() is None or not _texts(data_dir()))):
        return Haystack((Path(__file__).parent / "filler.txt").read_text().splitlines(), is_book=False)
    folder = data_dir()
    files = _texts(folder) if source is None else _texts(Path(source))
    sentences = [sentence for file in files for sentence in _sentences(file)]
    if len(sentences) < 50:
        raise DataError(f"haystack {source}: no text file with 50 sentences or more; give a .txt file or 'builtin'")
    return Haystack(sentences, is_book=True)


def _texts(path: Path | None) -> list[Path]:
    """The text files of a haystack: the file itself, those of the folder, or those of its folder `haystack`."""
    if path is None:
        return []
    folder = path / "haystack" if (path / "haystack").is_dir() else path
    return [path] if path.is_file() else sorted(folder.glob("*.txt"))


@cache
def _sentences(file: Path) -> list[str]:
    """Sentences of 2 to 100 words, their white space flattened; what looks like a value is left out."""
    flat = " ".join(file.read_text(encoding="utf-8", errors="replace").split())
    found = re.findall(r"[^.!?]+[.!?]+[\"'”’)\]]*", flat)
    return [text for piece in found if 1 <= (text := piece.strip()).count(" ") < 100 and not re.search(r"\d{5}", text)]
