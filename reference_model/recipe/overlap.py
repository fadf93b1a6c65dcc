"""Keeping test data out of the training text: by file hash, and by 13-gram overlap of words.

Thirteen words is the length that GPT-3's authors chose (Brown et al. 2020, arXiv:2005.14165, appendix C): shorter runs
are idiom, longer ones miss quotations. A paragraph that shares one such run with a test set is left out.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

N = 13
_WORD = re.compile(r"[^\W_]+")
_PRIME = np.uint64(0x9E3779B97F4A7C15)
Hashes = npt.NDArray[np.uint64]


@dataclass
class Found:
    """What one test set shares with the training text. `sets` is its own size, in 13-grams."""

    grams_in_test: int
    files_equal: int = 0
    windows: int = 0
    paragraphs: int = 0
    documents: int = 0


@dataclass
class Report:
    """Counts of the whole exclusion, for the model card."""

    documents: int = 0
    words: int = 0
    words_removed: int = 0
    paragraphs_removed: int = 0
    tests: dict[str, Found] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Exclusion:
    """Test sets to keep out: `tests` maps a name to its texts; each text's hash and its 13-grams are looked for."""

    def __init__(self, tests: dict[str, list[str]]) -> None:
        self._ids: dict[str, int] = {}
        self._hashes = {name: {_sha256(text) for text in texts} for name, texts in tests.items()}
        self._grams = {
            name: np.unique(np.concatenate([self._windows(t) for t in texts])) for name, texts in tests.items()
        }
        self.report = Report(tests={name: Found(len(grams)) for name, grams in self._grams.items()})

    def clean(self, documents: Iterable[str]) -> list[str]:
        """The documents without what they share with a test set; a document that equals a test file goes whole."""
        return [kept for document in documents if (kept := self._clean(document))]

    def _clean(self, document: str) -> str:
        equal = [name for name, hashes in self._hashes.items() if _sha256(document) in hashes]
        for name in equal:
            self.report.tests[name].files_equal += 1
        if equal:
            return ""
        paragraphs = re.split(r"(?<=\n)(?=\S)", document)
        counts = [len(_WORD.findall(paragraph)) for paragraph in paragraphs]
        owner = np.repeat(np.arange(len(paragraphs)), counts)  # of each word
        windows = self._windows(document)
        dropped = np.zeros(len(paragraphs), bool)
        for name, grams in self._grams.items():
            hits = np.flatnonzero(grams[np.searchsorted(grams, windows).clip(max=len(grams) - 1)] == windows)
            touched = np.unique(owner[np.unique(hits[:, None] + np.arange(N))])
            found = self.report.tests[name]
            found.windows += len(hits)
            found.paragraphs += len(touched)
            found.documents += bool(len(hits))
            dropped[touched] = True
        self.report.documents += 1
        self.report.words += sum(counts)
        self.report.words_removed += sum(count for count, gone in zip(counts, dropped, strict=True) if gone)
        self.report.paragraphs_removed += int(dropped.sum())
        return "".join(text for text, gone in zip(paragraphs, dropped, strict=True) if not gone)

    def _windows(self, text: str) -> Hashes:
        """A 64-bit hash of every run of 13 words, lower case and without punctuation: [words - 12]."""
        ids = self._ids
        words = np.array([ids.setdefault(w, len(ids)) for w in _WORD.findall(text.lower())], np.uint64)
        count = len(words) - N + 1
        if count <= 0:
            return np.empty(0, np.uint64)
        hashes = np.zeros(count, np.uint64)
        for offset in range(N):  # polynomial in an odd multiplier, modulo 2^64
            hashes = hashes * _PRIME + _mixed(words[offset : offset + count])
        return hashes


def _mixed(ids: Hashes) -> Hashes:
    """Word numbers spread over 64 bits (splitmix64's finaliser), so that sums of them do not collide."""
    x = ids + np.uint64(1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
