"""Serving the prompts with each arm in turn and reducing what the scheduler wrote against the baseline's, as it comes.

Prompts go one at a time, so that no arm's numbers depend on how requests happened to meet in a batch; their rows are
reduced on other threads meanwhile. On disk there are the baseline's rows and of the others' what is being reduced.
The greedy texts are made all at once, after that.
"""

import contextlib
import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sage_eval.engine.arm import Arm
from sage_eval.engine.requests import GenerateRequest
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError
from sage_eval.probes.logits import chunks, generated, tap
from sage_eval.probes.logits.plan import Prompt
from sage_eval.probes.logits.record import ArmLogits
from sage_eval.probes.logits.reduce import Distances, distances
from sage_eval.probes.logits.summary import Decode, summarise
from sage_eval.runs.calibration import Role

_THREADS = min(8, os.cpu_count() or 1)
_PENDING = 2 * _THREADS
"""Prompts whose rows may wait to be reduced."""
_SETTINGS = ("version", "device", "dtype", "attention_backend", "prefill_attention_backend", "decode_attention_backend",
             "chunked_prefill_size", "disable_radix_cache", "disable_cuda_graph", "enable_fp32_lm_head",
             "max_total_num_tokens")  # fmt: skip

Opened = Callable[..., AbstractContextManager[Arm]]
T = TypeVar("T")


class DiskFullError(PrerequisiteError):
    """There is no room for the distributions."""


class Wanted(NamedTuple):
    """An arm to be measured; `opened(**engine_arguments)` starts it."""

    name: str
    arguments: dict[str, Any]
    role: Role
    opened: Opened


@dataclass(frozen=True)
class Work:
    """What every arm does: `prompts`, then `tokens` greedy tokens after each of `texts_after`."""

    prompts: list[Prompt]
    vocabulary: int
    texts: str
    texts_after: list[tuple[int, ...]]
    tokens: int

    @property
    def bytes_on_disk(self) -> int:
        """The baseline's rows, and another arm's that wait."""
        rows = sorted(len(prompt.positions) for prompt in self.prompts)
        return (sum(rows) + sum(rows[-_PENDING - 1 :])) * chunks.row_type(self.vocabulary).itemsize


def probe(arms: Sequence[Wanted], work: Work, decode: Decode) -> Iterator[ArmLogits]:
    """Each arm's result as it is complete, the baseline's first.

    Raises `DiskFullError` where the disk is too small, before anything starts or when it happens, and whatever the
    baseline's engine raises; another arm that fails, or does not do what it should, has an `error` instead. The
    temporary files are gone in any case.
    """
    with workspace(work.bytes_on_disk) as folder:
        baseline, *others = arms
        result, rows, texts = _measure(baseline, work, folder / "0", lambda _, rows: rows)
        yield result

        def against(mine: Path, index: int, theirs: chunks.Rows) -> Distances:
            found = distances(rows[index], theirs)
            chunks.chunk_path(mine, _rid(index)).unlink()
            return found

        for number, wanted in enumerate(others, 1):
            mine = folder / str(number)
            try:
                result, found, outputs = _measure(wanted, work, mine, functools.partial(against, mine))
            except DiskFullError:
                raise  # the next arm would meet it too
            except SageEvalError as error:
                yield ArmLogits(name=wanted.name, arguments=wanted.arguments, error=str(error))
                continue
            finally:
                shutil.rmtree(mine, ignore_errors=True)
            yield result.model_copy(
                update={
                    "distances": summarise(
                        work.prompts, found, decode, texts=work.texts, arm=wanted.name, role=wanted.role
                    ),
                    "generated": generated.compare(texts, outputs, decode) if texts else None,
                }
            )


@contextlib.contextmanager
def workspace(needed: int) -> Iterator[Path]:
    """A temporary folder with room for `needed` bytes and an eighth more; `DiskFullError` where there is not."""
    with tempfile.TemporaryDirectory(prefix="sage-eval-logits-", ignore_cleanup_errors=True) as name:
        free = shutil.disk_usage(name).free
        if free < needed * 9 // 8:
            raise DiskFullError(
                f"{Path(name).parent} has {free / 2**30:.1f} GiB free, the distributions take {needed / 2**30:.1f}: "
                "set TMPDIR to a larger disk, or lower --positions"
            )
        yield Path(name)


def _measure(
    wanted: Wanted, work: Work, folder: Path, use: Callable[[int, chunks.Rows], T]
) -> tuple[ArmLogits, list[T], list[tuple[int, ...]]]:
    """One arm's engine from start to end: what it was, `use` of each prompt's rows, and the greedy texts."""
    folder.mkdir()
    plan = {_rid(i): (prompt.positions, prompt.targets) for i, prompt in enumerate(work.prompts)}
    (folder / tap.PLAN).write_text(json.dumps(plan))
    began = time.perf_counter()
    with wanted.opened(forward_hooks=[tap.hook(folder)]) as arm:
        ready = time.perf_counter()
        found = _capture(arm, work, folder, use)
        sampling = {"max_new_tokens": work.tokens, "temperature": 0.0, "ignore_eos": True}
        replies = arm.generate([GenerateRequest(ids, sampling) for ids in work.texts_after])
        done = time.perf_counter()
        info = arm.info()
        result = ArmLogits(
            name=wanted.name,
            arguments=wanted.arguments,
            backend=arm.backend,
            engine={name: info[name] for name in _SETTINGS if name in info},
            coverage=arm.coverage.as_dict()["tokens"],
            start_seconds=round(ready - began, 2),
            seconds=round(done - ready, 2),
        )
    return result, found, [reply.tokens for reply in replies]


def _capture(arm: Arm, work: Work, folder: Path, use: Callable[[int, chunks.Rows], T]) -> list[T]:
    sampling = {"max_new_tokens": 0, "temperature": 0.0}
    pending: list[Future[T]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, prompt in enumerate(work.prompts):
            arm.generate([GenerateRequest(prompt.tokens, sampling, _rid(index))])
            rows = _rows(folder, index, prompt, work.vocabulary, arm.backend)
            pending.append(pool.submit(use, index, rows))
            if index >= _PENDING:
                pending[index - _PENDING].result()
        return [future.result() for future in pending]


def _rows(folder: Path, index: int, prompt: Prompt, vocabulary: int, backend: str) -> chunks.Rows:
    """What the scheduler wrote for one prompt, checked to be whole."""
    path = chunks.chunk_path(folder, _rid(index))
    if (failure := folder / chunks.FAILURE).exists():
        raise DiskFullError(
            f"the distributions cannot be kept in {folder.parent.parent} ({failure.read_text()}): set TMPDIR to a "
            "larger disk, or lower --positions"
        )
    try:
        rows = chunks.read(path, vocabulary)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{backend}: no distributions of {vocabulary} ids came out of the scheduler ({error}); is the model's last "
            "module SGLang's LogitsProcessor?"
        ) from None
    if tuple(rows["place"].tolist()) != prompt.positions:
        raise EngineError(
            f"{backend}: {len(rows)} of {len(prompt.positions)} positions of a prompt were computed; with a prefix "
            "cache some are not: leave disable_radix_cache on"
        )
    if not all(np.isfinite(rows[name]).all() for name in ("true", "tail")):
        raise EngineError(
            f"{backend} returned NaN for a prompt of {len(prompt.tokens)} tokens: the attention backend or the model's "
            "dtype is broken here; try another attention_backend or dtype"
        )
    return rows


def _rid(index: int) -> str:
    return f"prompt-{index:04d}"
