"""Keys and values: random words, names, numbers, hexadecimal strings, UUIDs."""

from collections.abc import Callable

import numpy as np

from reference_model.recipe.words import Words

Draw = Callable[[np.random.Generator, str], str]


def training_key(words: Words) -> Draw:
    """Draws a key of a kind: word-word mostly, sometimes one word, two words, a name, a name with a number."""

    def draw(rng: np.random.Generator, kind: str) -> str:
        if kind != "words":
            return _one(rng, words.names) if kind == "name" else value(rng, kind, words)
        chance = rng.random()
        if chance < 0.55:
            return f"{_one(rng, words.first)}-{_one(rng, words.second)}"
        if chance < 0.80:
            return _one(rng, words.first) + (f" {_one(rng, words.second)}" if chance < 0.65 else "")
        if chance < 0.95:
            return _one(rng, words.names)
        return f"{_one(rng, words.names)}-{rng.integers(10, 1000)}"

    return draw


def evaluation_key(words: Words) -> Draw:
    """Draws a key of a kind; words are always adjective-noun, as in the project's retrieval task and in RULER."""

    def draw(rng: np.random.Generator, kind: str) -> str:
        if kind == "name":
            return _one(rng, words.names)
        return f"{_one(rng, words.first)}-{_one(rng, words.second)}" if kind == "words" else value(rng, kind, words)

    return draw


def value(rng: np.random.Generator, kind: str, words: Words) -> str:
    """`dN` is a number of N digits, `hN` N hexadecimal digits, `uuid` a version 4 UUID, `word` a word."""
    if kind == "word":
        return _one(rng, words.first)
    if kind == "uuid":
        h = rng.bytes(16).hex()
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[int(rng.integers(4))]}{h[17:20]}-{h[20:]}"
    length = int(kind[1:])
    if kind[0] == "h":
        return rng.bytes(length // 2 + 1).hex()[:length]
    return str(rng.integers(1, 10)) + "".join(map(str, rng.integers(0, 10, length - 1)))


def _one(rng: np.random.Generator, options: list[str]) -> str:
    return options[int(rng.integers(len(options)))]
