"""`arms/<name>/topk.npz`: the most probable tokens at each position of an arm's texts, and pairing two arms' files.

Windows [W] (`task` as an index into `tasks`, `doc_id`, `start`, `context`, `length`, `prompt`) and their positions one
after the other, [N] and [N, k]: `targets` and `ids` int32, `target_logprobs` and `logprobs` float32 in nats. 136 bytes
a position with k = 16: 40 MB for the test set of WikiText-2.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sage_eval.errors import DataError
from sage_eval.store.files import write_bytes

SCHEMA_VERSION = 1
Key = tuple[str, int, int]
"""Task, document and the document's tokens before the window."""


class Window(Protocol):
    """What is written of a piece of a text; see `engine.topk.TextWindow`."""

    @property
    def task(self) -> str: ...
    @property
    def doc_id(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def targets(self) -> npt.NDArray[np.int32]: ...
    @property
    def logprobs(self) -> npt.NDArray[np.float32]: ...
    @property
    def top(self) -> Any: ...


@dataclass(frozen=True)
class TopLists:
    """One arm's file. `windows` says which rows of the arrays a window has, under its key."""

    arm: str
    windows: Mapping[Key, tuple[str, int, slice]]
    """Hash of the prompt, tokens of context before the first target, rows."""
    targets: npt.NDArray[np.int32]
    target_logprobs: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Positions:
    """One task's N positions in two arms: baseline first in each pair. `context` counts the tokens before each."""

    doc_ids: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    target_logprobs: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    ids: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
    logprobs: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def write(path: Path, windows: Sequence[Window]) -> None:
    """Write the windows; without any, remove what an earlier arm left there."""
    if not windows:
        path.unlink(missing_ok=True)
        return
    tasks = sorted({window.task for window in windows})
    number = {task: index for index, task in enumerate(tasks)}
    buffer = io.BytesIO()
    np.savez(  # compressing would save a third, and take longer than scoring does on a GPU
        buffer,
        schema_version=np.array(SCHEMA_VERSION),
        tasks=np.array(tasks),
        task=np.array([number[window.task] for window in windows], np.int32),
        doc_id=np.array([window.doc_id for window in windows], np.int64),
        start=np.array([window.start for window in windows], np.int64),
        context=np.array([window.context for window in windows], np.int64),
        length=np.array([window.targets.size for window in windows], np.int64),
        prompt=np.array([window.prompt for window in windows]),
        targets=np.concatenate([window.targets for window in windows]),
        target_logprobs=np.concatenate([window.logprobs for window in windows]),
        ids=np.concatenate([window.top.ids for window in windows]),
        logprobs=np.concatenate([window.top.logprobs for window in windows]),
    )
    write_bytes(path, buffer.getvalue())


def read(path: Path, arm: str) -> TopLists | None:
    """An arm's lists, or None where there is no such file; `DataError` where it is cut, damaged or of another kind."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if int(found["schema_version"]) != SCHEMA_VERSION:
            raise DataError(f"{path} has schema_version {found['schema_version']}; this sage-eval reads 1: update it")
        return _lists(found, arm)
    except (OSError, KeyError, ValueError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # Not numpy's words, which advise to load pickles.
        name = type(error).__name__
        raise DataError(f"{path} is cut short or damaged ({name}): delete it and repeat the run") from None


def _lists(found: Mapping[str, npt.NDArray[Any]], arm: str) -> TopLists:
    ends = np.cumsum(found["length"])
    keys = zip(found["tasks"][found["task"]].tolist(), found["doc_id"].tolist(), found["start"].tolist(), strict=True)
    rows = map(slice, (ends - found["length"]).tolist(), ends.tolist())
    values = zip(found["prompt"].tolist(), found["context"].tolist(), rows, strict=True)
    windows = dict(zip(keys, values, strict=True))
    if len(windows) != len(found["length"]):
        raise ValueError("it has a window twice")
    arrays = {name: found[name] for name in ("targets", "target_logprobs", "ids", "logprobs")}
    if {len(array) for array in arrays.values()} != {int(ends[-1])}:
        raise ValueError("its arrays differ in length")
    return TopLists(arm=arm, windows=windows, **arrays)


def pair(baseline: TopLists, other: TopLists) -> dict[str, Positions]:
    """Each task's positions in both arms, in the baseline's order.

    Raises `DataError` naming the task where a window is in one arm only or the arms saw different tokens.
    """
    lonely = [*(baseline.windows.keys() - other.windows.keys()), *(other.windows.keys() - baseline.windows.keys())]
    if lonely:
        task, doc_id, start = min(lonely)
        raise DataError(
            f"{task}: arms {baseline.arm} and {other.arm} did not score the same windows: {len(lonely)} are in one "
            f"only (first: document {doc_id}, token {start}); run again with --fresh"
        )
    tasks: dict[str, list[Key]] = {}
    for key, (prompt, _, _) in baseline.windows.items():
        if prompt != other.windows[key][0]:
            raise DataError(
                f"{key[0]}, document {key[1]}: arms {baseline.arm} and {other.arm} were given different tokens, so "
                "their distributions cannot be compared; did the data or the tokenizer change? run again with --fresh"
            )
        tasks.setdefault(key[0], []).append(key)
    return {task: _positions(keys, baseline, other) for task, keys in tasks.items()}


def _positions(keys: Sequence[Key], baseline: TopLists, other: TopLists) -> Positions:
    windows = [baseline.windows[key] for key in keys]
    sizes = [rows.stop - rows.start for _, _, rows in windows]
    context = [before + np.arange(size) for (_, before, _), size in zip(windows, sizes, strict=True)]
    mine, theirs = (
        np.concatenate([np.arange(rows.start, rows.stop) for _, _, rows in (arm.windows[key] for key in keys)])
        for arm in (baseline, other)
    )
    return Positions(
        doc_ids=np.repeat([doc_id for _, doc_id, _ in keys], sizes),
        context=np.concatenate(context),
        target_logprobs=(baseline.target_logprobs[mine], other.target_logprobs[theirs]),
        ids=(baseline.ids[mine], other.ids[theirs]),
        logprobs=(baseline.logprobs[mine], other.logprobs[theirs]),
    )
