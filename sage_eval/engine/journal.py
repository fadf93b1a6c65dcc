"""Answers kept on disk as they arrive, so that an evaluation that was killed goes on where it was.

The file is append-only: length-prefixed zstd frames, the first with the fingerprint of what answers, each other one
with a `Slice`: consecutive requests of one call, their answers, and the coverage of exactly these. Neither can be in it
without the other.
"""

import dataclasses
import hashlib
import json
import os
import struct
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import zstandard

from sage_eval.engine import answers as codec
from sage_eval.engine.answers import Answer
from sage_eval.engine.coverage import Coverage
from sage_eval.engine.requests import Payload
from sage_eval.errors import PrerequisiteError

VERSION = 1
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Slice:
    """Answers to the payloads from `start` on of the call `call`, what computing them covered, and how long it took."""

    call: str
    start: int
    answers: Sequence[Answer]
    coverage: Coverage
    seconds: float


class Journal:
    """The journal at `path` of what `fingerprint` identifies; opened, and made where there is none.

    A journal of another fingerprint, or something that is none, is replaced; a record that was cut is dropped, with
    what follows it. Raises `PrerequisiteError` where the file cannot be written.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._found: dict[str, deque[tuple[int, int]]] = {}  # of each call, (place in the file, start) of its slices
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
            self._index(codec.encode({"journal": VERSION, "fingerprint": fingerprint}, []))
        except OSError as error:
            self._refuse(error)

    def kept(self, call: str) -> Iterator[Slice]:
        """Slices of an earlier run's call with this digest, from its first payload on, each given out only once."""
        found, reached = self._found.get(call, deque()), 0
        while found and found[0][1] == reached:  # a repeat of the same call starts at 0 again
            place, start = found.popleft()
            self._file.seek(place)
            data = self._frame() or b""  # it was there when the journal was opened
            head, answers = codec.head(data), codec.decode(data)
            yield Slice(call, start, answers, Coverage(**head["coverage"]), head["seconds"])
            reached += len(answers)

    def append(self, part: Slice) -> None:
        """Add a slice. It outlives this process, though not a power cut within the next seconds."""
        head = {
            "call": part.call,
            "start": part.start,
            "coverage": dataclasses.asdict(part.coverage),
            "seconds": part.seconds,
        }
        try:
            self._file.seek(0, os.SEEK_END)
            self._write(codec.encode(head, part.answers))
        except OSError as error:
            self._refuse(error)

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    def _index(self, header: bytes) -> None:
        end = 0
        if self._frame() == header:
            end = self._file.tell()
            while (data := self._frame()) is not None:
                head = codec.head(data)
                self._found.setdefault(head["call"], deque()).append((end, head["start"]))
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


def digest(call: Iterable[tuple[Payload, Any]]) -> str:
    """SHA-256 over all that a call asks for, in its order: payloads, and what of each reply is wanted (for JSON)."""
    whole = hashlib.sha256()
    for payload, wanted in call:
        ids = array("q", payload["input_ids"])
        rest = {name: value for name, value in payload.items() if name != "input_ids"}
        text = json.dumps([rest, wanted], sort_keys=True, default=repr).encode()
        # The lengths keep ids and text apart: no two calls give the same bytes.
        whole.update(struct.pack("<qq", len(ids), len(text)) + ids.tobytes() + text)
    return whole.hexdigest()


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
