"""Book text as a haystack, in tokens: flat slices of it, and the places where a sentence may be put in."""

import re
from functools import cached_property

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from reference_model.recipe.tokenizer import EOS, Ids

NOISE = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
"""RULER's repeated filler."""


class Haystack:
    """Token-level views of `ids`, a long array of book text, for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, ids: Ids) -> None:
        self._ids = ids
        tokens = [tokenizer.id_to_token(number) or "" for number in range(tokenizer.get_vocab_size())]
        index = {token: number for number, token in enumerate(tokens)}
        self._closes = np.array([bool(re.search(r"[.?!](âĢĿ|\")?$", token)) for token in tokens])  # a sentence
        self._spaced = np.array([token.startswith("Ġ") and len(token) > 1 for token in tokens])
        self._newline = np.array([set(token) <= {"Ċ", "Ġ"} and "Ċ" in token for token in tokens])
        self._with_space = np.array([index.get("Ġ" + token, -1) for token in tokens])  # "He" → " He"
        without = [index.get(token[1:], number) if token[:1] == "Ġ" else number for number, token in enumerate(tokens)]
        self._without_space = np.array(without, np.uint16)
        self._noise = np.array(tokenizer.encode(NOISE, add_special_tokens=False).ids, np.uint16)
        newline = index.get("Ċ", EOS)
        self._noise_lines = np.append(self._flush(self._noise), np.uint16(newline))

    @cached_property
    def frequent(self) -> Ids:
        """A sample of the text's tokens, special ones left out, to draw random tokens from."""
        sample = self._ids[:: max(1, len(self._ids) // 1_000_000)]
        return sample[sample > EOS]

    def passage(self, rng: np.random.Generator, length: int) -> Ids:
        """`length` tokens of flat text from anywhere, from the start of a sentence where one is near."""
        need = min(length + 400 + length // 8, len(self._ids))
        text = np.empty(0, np.uint16)
        for _ in range(3):
            start = int(rng.integers(0, max(1, len(self._ids) - need)))
            text = self._flat(self._ids[start : start + need])
            starts = self.borders(text[:301])
            text = text[int(starts[0]) if len(starts) else 0 :][:length]
            if len(text) == length:
                break
        return self._flush(text)

    def noise(self, length: int, in_lines: bool) -> Ids:
        """RULER's filler, repeated with a space or a newline between."""
        unit = self._noise_lines if in_lines else self._noise
        return self._flush(np.tile(unit, length // len(unit) + 1)[:length])

    def borders(self, text: Ids) -> npt.NDArray[np.int64]:
        """Where a sentence that begins with a space may be put: positions in `text`."""
        return np.flatnonzero(self._closes[text[:-1]] & (self._spaced | self._newline)[text[1:]]) + 1

    def _flush(self, text: Ids) -> Ids:
        text = text.copy()
        if len(text):
            text[0] = self._without_space[text[0]]
        return text

    def _flat(self, text: Ids) -> Ids:
        """Without newlines and special tokens; what follows a newline takes a leading space where such a token is."""
        newline = self._newline[text]
        keep = ~newline & (text > EOS)
        if keep.all():
            return text
        after = np.concatenate([[False], newline[:-1]])
        spaced = self._with_space[text]
        return np.where(after & ~newline & (spaced >= 0), spaced, text)[keep].astype(np.uint16)
