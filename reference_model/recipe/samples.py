"""Retrieval samples, in tokens: needles in prose, lists of lines, and repeated strings that teach copying.

A sample is a list of pieces (token ids, loss weight), cut where the tokenizer cuts in any case, so that the joined ids
are what it makes of the joined text. Weights are eighths of an ordinary token's: book text counts 1, template text ¼,
a value where it is told 0 (nobody can predict it), and an answer as much as `finish` decides.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from reference_model.recipe.haystack import Haystack
from reference_model.recipe.keys import Draw, value
from reference_model.recipe.tokenizer import BOS, EOS, Ids
from reference_model.recipe.wordings import Wording
from reference_model.recipe.words import Words

TEXT, TEMPLATE, NONE, ANSWER = 8, 2, 0, -1
LEAST_ANSWER = 32
"""The least weight of an answer token: four ordinary ones."""
Piece = tuple[Ids, int]
Pair = tuple[str, str]


class Sampler:
    """Makes samples from a tokenizer, a haystack and a source of keys; what is random comes from the caller's `rng`."""

    def __init__(self, tokenizer: Tokenizer, haystack: Haystack, key: Draw, words: Words) -> None:
        self._tokenizer, self.haystack, self._key, self._words = tokenizer, haystack, key, words
        self._cache: dict[str, Ids] = {}
        found = (tokenizer.token_to_id("Ġ" + word) for word in words.first)
        self._word_tokens = np.array([number for number in found if number is not None], np.uint16)

    def needle(
        self, rng: np.random.Generator, length: int, wording: Wording, *, needles: int = 1, asked: int = 1,
        kinds: Pair | None = None, near: int = 0, filler: str = "book",
    ) -> list[Piece]:  # fmt: skip
        """About `length` tokens of prose (or `filler` "noise", "noise-lines") with `needles` told and `asked` asked.

        `near` of the other keys are like the first asked: the same first word, or one character changed.
        """
        kinds = kinds or _kinds(rng, wording)
        wording, pairs = wording.about(kinds[1]), self._pairs(rng, needles, kinds, near)
        tail = self._questions(wording, pairs[:asked])
        items = [self._told(wording, pair, " ") for pair in pairs]
        head = self._encoded(wording.head)
        room = max(8, length - 2 - len(head) - _size(tail) - sum(map(_size, items)))
        text, weight = self.haystack.passage(rng, room), TEXT
        if filler != "book":
            text, weight = self.haystack.noise(room, filler == "noise-lines"), 1
        places = self.haystack.borders(text)
        if len(places) < 4:
            places = np.arange(1, max(2, len(text)))
        places = rng.choice(places, len(items))
        pieces, last = [(head, TEMPLATE)], 0
        for number in np.argsort(places, kind="stable"):
            place = int(places[number])
            pieces += [(text[last:place], weight), *items[number]]
            last = place
        return [*pieces, (text[last:], weight), *tail]

    def listing(
        self, rng: np.random.Generator, length: int, wording: Wording, *, asked: int = 1, kinds: Pair | None = None,
        near: int = 0,
    ) -> list[Piece]:  # fmt: skip
        """Nothing but lines, as many as `length` tokens hold; `near` as above."""
        kinds = kinds or _kinds(rng, wording)
        wording = wording.about(kinds[1])
        head = self._encoded(wording.head)
        probe = self._pairs(rng, 8, kinds, 0)
        line = sum(map(len, self._lines(wording, probe))) / len(probe)
        question = _size(self._questions(wording, probe)) / len(probe)
        asked = max(1, min(asked, int((length - len(head)) / (line + question) / 1.2)))
        pairs = self._pairs(rng, int(1.2 * length / line) + asked + near + 1, kinds, near)
        tail = self._questions(wording, pairs[:asked])
        rows = self._lines(wording, pairs)
        room = length - 2 - len(head) - _size(tail)
        count = int(np.searchsorted(np.cumsum([len(row) for row in rows]), room, side="right"))
        count = max(asked + near, count)
        body = np.concatenate([rows[i] for i in rng.permutation(min(count, len(rows)))])[:-1]
        return [(head, TEMPLATE), (body, NONE), *tail]

    def copying(self, rng: np.random.Generator, length: int) -> list[Piece]:
        """Random tokens several times over; a passage, other text, the passage again; or word pairs asked again."""
        chance = rng.random()
        if chance < 0.4:
            count = int(rng.integers(6, max(8, length // 2)))
            string = rng.choice(self.haystack.frequent, count)
            return [(string, NONE)] + [(string, TEXT)] * max(1, min(7, length // count - 1))
        if chance < 0.6 or len(self._word_tokens) < 2 * max(2, int(length / 6.5)):
            count = int(rng.integers(16, max(18, length // 3)))
            passage = self.haystack.passage(rng, count)
            between = self.haystack.passage(rng, int(rng.integers(1, max(2, length - 2 * count))))
            newline = (self._encoded("\n"), TEMPLATE)
            return [(passage, TEXT), newline, (between, TEXT), newline, (passage, TEXT)]
        count = max(2, int(length / 6.5))
        words = rng.choice(self._word_tokens, 2 * count, replace=False)
        keys, values, newline_id = words[:count], words[count:], self._encoded("\n")
        table = np.stack([keys, values, np.full(count, newline_id[0], np.uint16)], 1)
        pieces: list[Piece] = [(table.ravel(), NONE)]
        for i in rng.permutation(count):
            pieces += [(keys[i : i + 1], NONE), (values[i : i + 1], TEXT), (newline_id, TEMPLATE)]
        return pieces

    def _pairs(self, rng: np.random.Generator, count: int, kinds: Pair, near: int) -> list[Pair]:
        """Pairs with different keys, as many as can be had of `count`; those after the first are the `near` ones."""
        first = self._key(rng, kinds[0])
        keys = {first: None}
        for _ in range(50 * count):
            if len(keys) == count:
                break
            fresh = self._key(rng, kinds[0])
            keys.setdefault(_near(rng, first, fresh) if len(keys) <= near else fresh)
        return [(key, value(rng, kinds[1], self._words)) for key in keys]

    def _told(self, wording: Wording, pair: Pair, lead: str) -> list[Piece]:
        before, answer, after = _split(wording.item, pair)
        pieces = [(self._ids(lead + before), TEMPLATE), (self._ids(answer), NONE)]
        return pieces + ([(self._encoded(after), TEMPLATE)] if after else [])

    def _lines(self, wording: Wording, pairs: Sequence[Pair]) -> list[Ids]:
        """Each pair told on a line of its own, in one call, because lists are long."""
        texts = [wording.item.replace("{k}", key).replace("{v}", told) + "\n" for key, told in pairs]
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint16) for encoding in encoded]

    def _questions(self, wording: Wording, pairs: Sequence[Pair]) -> list[Piece]:
        pieces: list[Piece] = []
        for key, told in pairs:
            before, answer, after = _split(wording.answer, (key, told))
            # Where the question does not name the key, nobody can predict the answer's beginning.
            known = TEXT if "{k}" in wording.question else TEMPLATE
            pieces += [(self._ids(wording.question.replace("{k}", key)), TEMPLATE), (self._ids(before), known)]
            pieces += [(self._ids(answer), ANSWER), (self._encoded(after), TEMPLATE)]
        return [piece for piece in pieces if len(piece[0])]

    def _ids(self, text: str) -> Ids:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint16)

    def _encoded(self, text: str) -> Ids:
        """Cached, for the fixed parts."""
        if text not in self._cache:
            self._cache[text] = self._ids(text)
        return self._cache[text]


def finish(
    rng: np.random.Generator, pieces: list[Piece], share: float
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Token ids and weights, with `</s>` at the end and, half the time, `<s>` before: [tokens] each.

    Answer tokens weigh alike, and together about `share` of the sample.
    """
    begin: list[Piece] = [(np.array([BOS], np.uint16), NONE)] if rng.random() < 0.5 else []
    pieces = [*begin, *pieces, (np.array([EOS], np.uint16), TEXT)]
    answers = sum(len(ids) for ids, weight in pieces if weight == ANSWER)
    rest = sum(len(ids) * weight for ids, weight in pieces if weight != ANSWER)
    answer = int(np.clip(share * rest / ((1 - share) * max(answers, 1)), LEAST_ANSWER, 255))
    weights = [np.full(len(ids), answer if weight == ANSWER else weight, np.uint8) for ids, weight in pieces]
    return np.concatenate([ids for ids, _ in pieces]), np.concatenate(weights)


def prompt_and_answer(pieces: list[Piece]) -> tuple[Ids, Ids]:
    """The tokens up to the first answer, and that answer's."""
    at = next(number for number, (_, weight) in enumerate(pieces) if weight == ANSWER)
    return np.concatenate([ids for ids, _ in pieces[:at]]), pieces[at][0]


def _split(template: str, pair: Pair) -> tuple[str, str, str]:
    """What stands before the value, the value, what follows; a space before the value belongs to it."""
    before, after = template.replace("{k}", pair[0]).split("{v}")
    space = " " if before.endswith(" ") else ""
    return before.removesuffix(" "), space + pair[1], after


def _near(rng: np.random.Generator, key: str, fresh: str) -> str:
    """`key` with its second word from `fresh`, or with one character changed.

    A UUID that begins with a letter counts as words: all but its first group is from `fresh`.
    """
    if key[0].isalpha() and "-" in key and "-" in fresh:
        return key.partition("-")[0] + "-" + fresh.partition("-")[2]
    at = int(rng.integers(len(key)))
    return key[:at] + fresh[min(at, len(fresh) - 1)] + key[at + 1 :]


def _kinds(rng: np.random.Generator, wording: Wording) -> Pair:
    pick = rng.integers
    return wording.keys[int(pick(len(wording.keys)))], wording.values[int(pick(len(wording.values)))]


def _size(pieces: list[Piece]) -> int:
    return sum(len(ids) for ids, _ in pieces)
