"""Answers kept on disk as they arrive, so that an evaluation that was killed goes on where it was.

The file is append-only: length-prefixed zstd frames, the first with the fingerprint of what answers, each other one
with a slice of the requests: their digests, their answers, and the coverage of exactly these. Neither can be in it
without the other. A call that asks for more than an earlier one takes from it what they share.
"""

import dataclasses
import hashlib
import json
import os
import struct
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec
import numpy as np
import zstandard

from sage_eval.engine.coverage import Coverage
from sage_eval.engine.requests import Generation, Payload, Score
from sage_eval.engine.topk import TopK
from sage_eval.errors import PrerequisiteError

FIRST_TOKENS = 32_768
"""The first slice, before anything is known: two of SGLang's prefill batches, under a minute even without a GPU."""
SCORE_SECONDS = 30.0
"""A pause while scoring costs about one round trip to the engine."""
GENERATE_SECONDS = 120.0
"""A pause while generating waits for the longest answer, in an ever emptier batch: fewer of them."""
GROWTH = 16
"""A slice is at most so many times the one before it: a bad guess stays a small one."""


class Slices:
    """Where to cut `payloads`: `next` says where the slice that begins at a place ends, `took` how long it took.

    What was computed is read from the engine's counters, which are exact only while it is idle: between two slices it
    runs dry for a moment. Slices are sized by time, so that a kill loses one at most and the pauses cost little of it.
    """

    def __init__(self, payloads: Sequence[Payload]) -> None:
        sizes = [(len(p["input_ids"]), p["sampling_params"].get("max_new_tokens") or 0) for p in payloads]
        self._upto = [0, *accumulate(length + new for length, new in sizes)]
        self._seconds = GENERATE_SECONDS if any(new for _, new in sizes) else SCORE_SECONDS
        self._tokens: float = FIRST_TOKENS

    def next(self, start: int) -> int:
        """The end of the slice from `start` on: one payload at least, and no small rest left behind."""
        stop = max(start + 1, bisect_right(self._upto, self._upto[start] + self._tokens) - 1)
        few = self._upto[-1] - self._upto[stop] < self._tokens / 2
        return len(self._upto) - 1 if few else stop

    def took(self, start: int, stop: int, seconds: float) -> None:
        """Size the next slice by the time that this one took."""
        tokens = self._upto[stop] - self._upto[start]
        self._tokens = min(GROWTH * tokens, tokens * self._seconds / max(seconds, 1e-3))


VERSION = 2
_LENGTH = struct.Struct("<I")
Answer = Sequence[Score] | Sequence[Generation]
"""What one payload's reply says: the scores of a group's members, or the one generation."""


class Journal:
    """The journal at `path` of what `fingerprint` identifies; opened, and made where there is none.

    A journal of another fingerprint, or something that is none, is replaced; a record that was cut is dropped, with
    what follows it. Raises `PrerequisiteError` where the file cannot be written.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._found: dict[str, deque[tuple[int, int]]] = {}  # by digest: a slice's place in the file, and place in it
        self._counted: set[int] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
            self._index(msgspec.msgpack.encode({"journal": VERSION, "fingerprint": fingerprint}))
        except OSError as error:
            self._refuse(error)

    def kept(self, keys: Sequence[str]) -> Iterator[tuple[dict[int, Answer], Coverage, float]]:
        """What is known of the payloads with these digests: answers by their place in `keys`, each given out only once.

        Slice by slice, with the coverage and seconds of the whole slice the first time.
        """
        places: dict[int, dict[int, int]] = {}
        for index, key in enumerate(keys):
            if found := self._found.get(key):
                place, nth = found.popleft()
                places.setdefault(place, {})[index] = nth
        for place, wanted in sorted(places.items()):
            self._file.seek(place)
            record = msgspec.msgpack.decode(self._frame() or b"")  # it was there when the journal was opened
            known: dict[int, Answer] = {
                index: list(map(_restored, record["answers"][nth])) for index, nth in wanted.items()
            }
            new = place not in self._counted
            self._counted.add(place)
            yield known, Coverage(**record["coverage"]) if new else Coverage(), record["seconds"] if new else 0.0

    def append(self, keys: Sequence[str], answers: Sequence[Answer], coverage: Coverage, seconds: float) -> None:
        """Add a slice: answers to the payloads with these digests, what computing them covered, how long it took.

        It outlives this process, though not a power cut within the next seconds.
        """
        record = {
            "keys": keys,
            "answers": [list(map(_plain, answer)) for answer in answers],
            "coverage": dataclasses.asdict(coverage),
            "seconds": seconds,
        }
        try:
            self._file.seek(0, os.SEEK_END)
            self._write(msgspec.msgpack.encode(record))
        except OSError as error:
            self._refuse(error)

    def close(self) -> None:
        self._file.close()

    def _index(self, header: bytes) -> None:
        end = 0
        if self._frame() == header:
            end = self._file.tell()
            while (data := self._frame()) is not None:
                for nth, key in enumerate(msgspec.msgpack.decode(data)["keys"]):
                    self._found.setdefault(key, deque()).append((end, nth))
                end = self._file.tell()
        self._file.seek(end)
        self._file.truncate()
        if not end:
            self._write(header)

    def _frame(self) -> bytes | None:
        """The record at the current place, None where it is cut or damaged."""
        length = self._file.read(_LENGTH.size)
        if len(length) < _LENGTH.size:
            return None
        try:
            return zstandard.ZstdDecompressor().decompress(self._file.read(*_LENGTH.unpack(length)))
        except zstandard.ZstdError:
            return None

    def _write(self, data: bytes) -> None:
        frame = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)
        self._file.write(_LENGTH.pack(len(frame)))
        self._file.write(frame)
        self._file.flush()

    def _refuse(self, error: OSError) -> NoReturn:
        raise PrerequisiteError(
            f"cannot keep answers in {self.path}: {error.strerror}; free some space or make it writable"
        ) from None


def _plain(answer: Score | Generation) -> tuple[Any, ...]:
    """Every number exactly; a top-k list as its k and the bytes of its arrays."""
    if isinstance(answer, Generation):
        return answer.tokens, answer.finish_reason
    top = answer.top
    lists = top and (top.ids.shape[1], top.ids.astype("<i4").tobytes(), top.logprobs.astype("<f4").tobytes())
    return answer.logprobs, answer.greedy, lists


def _restored(plain: Sequence[Any]) -> Any:
    if len(plain) == 2:
        return Generation(tuple(plain[0]), plain[1])
    logprobs, greedy, lists = plain
    if lists:
        k, ids, values = lists
        lists = TopK(np.frombuffer(ids, "<i4").reshape(-1, k), np.frombuffer(values, "<f4").reshape(-1, k))
    return Score(tuple(logprobs), greedy, lists)


def digest(payload: Payload, wanted: Any) -> str:
    """SHA-256 over a payload, and what of its reply is wanted (for JSON)."""
    ids = array("q", payload["input_ids"])
    rest = {name: value for name, value in payload.items() if name != "input_ids"}
    text = json.dumps([rest, wanted], sort_keys=True, default=repr).encode()
    # The lengths keep ids and text apart: no two payloads give the same bytes.
    return hashlib.sha256(struct.pack("<qq", len(ids), len(text)) + ids.tobytes() + text).hexdigest()


def fingerprint(*parts: Any) -> str:
    """SHA-256 over `parts`, plain values for JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def weights_key(model: str, commit: str | None) -> str:
    """Which weights: the hub's commit, or names, sizes and times of a folder's files."""
    folder = Path(model)
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return fingerprint(model, commit, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def code_key() -> str:
    """Which code: a kernel edited between two runs must not finish what the old one began."""
    root = Path(__file__).parents[1]
    files = sorted(path for room in ("attention", "engine", "platforms") for path in (root / room).rglob("*.py"))
    return fingerprint([(str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in files])
