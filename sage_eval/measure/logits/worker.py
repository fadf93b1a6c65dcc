"""An arm's process for `logits`: serves the prompts, and compares what the scheduler wrote with the baseline's.

Prompts are served one at a time, so that no arm's numbers depend on how requests meet in a batch; their rows are
reduced on other threads meanwhile. The disk holds the baseline's rows, and of another arm's those being reduced. The
greedy texts are made all at once, after that.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sage_eval.arms.engine import EngineHost
from sage_eval.engine.requests import GenerateRequest
from sage_eval.errors import EngineError, PrerequisiteError
from sage_eval.measure.logits import tap
from sage_eval.measure.logits.plan import PENDING, THREADS, Asked, Prompt, Work
from sage_eval.measure.logits.reduce import Distances, compare_texts, distances, served, summarise
from sage_eval.store.record import Role

_TEXTS = "texts.json"


class LogitsWorker(EngineHost):
    """An engine whose scheduler writes distributions to `folder`, which is this arm's own."""

    def __init__(self, model: str, arguments: dict[str, Any], work: dict[str, Any], folder: str) -> None:
        self.work, self.folder = Work.of(Path(model), Asked.model_validate(work)), Path(folder)
        self.folder.mkdir()
        wanted = {_rid(i): (prompt.positions, prompt.targets) for i, prompt in enumerate(self.work.prompts)}
        (self.folder / tap.PLAN).write_text(json.dumps(wanted))
        arguments = {"max_length": self.work.max_length, **arguments}
        super().__init__(model, arguments, forward_hooks=[tap.hook(self.folder)])

    def serve(self, base: str | None, *, arm: str, role: Role, texts: str) -> dict[str, Any]:
        """Fields of a row. Without `base`, the baseline's folder, everything stays in this arm's own for the others."""
        began = time.perf_counter()
        found = self._capture(Path(base) if base else None)
        sampling = {"max_new_tokens": self.work.tokens, "temperature": 0.0, "ignore_eos": True}
        replies = self.arm.generate([GenerateRequest(ids, sampling) for ids in self.work.continued])
        outputs = [list(reply.tokens) for reply in replies]
        seconds = round(time.perf_counter() - began, 2)
        answer = {"backend": self.arm.backend, "seconds": seconds, "served": served(self.work).model_dump()}
        if base is None:
            (self.folder / _TEXTS).write_text(json.dumps(outputs))
            return answer
        theirs: Sequence[Sequence[int]] = json.loads((Path(base) / _TEXTS).read_text())
        far = summarise(self.work.prompts, found, self.work.decode, texts=texts, arm=arm, role=role)
        alike = compare_texts(theirs, outputs, self.work.decode) if theirs else None
        return answer | {
            "distances": far.model_dump(mode="json"), "generated": alike.model_dump(mode="json") if alike else None
        }  # fmt: skip

    def _capture(self, base: Path | None) -> list[Distances]:
        """Serve all prompts; their distances from the baseline's rows, which are read from `base` if there is one."""
        vocabulary, pending = self.work.vocabulary, list[Future[Distances]]()

        def reduce(base: Path, index: int, mine: tap.Rows) -> Distances:
            found = distances(tap.read(tap.chunk_path(base, _rid(index)), vocabulary), mine)
            tap.chunk_path(self.folder, _rid(index)).unlink()
            return found

        with ThreadPoolExecutor(THREADS) as pool:
            for index, prompt in enumerate(self.work.prompts):
                sampling = {"max_new_tokens": 0, "temperature": 0.0}
                self.arm.generate([GenerateRequest(prompt.tokens, sampling, _rid(index))])
                mine = read_rows(self.folder, index, prompt, vocabulary, self.arm.backend)
                if base:
                    pending.append(pool.submit(reduce, base, index, mine))
                    if index >= PENDING:
                        pending[index - PENDING].result()
            return [future.result() for future in pending]


def read_rows(folder: Path, index: int, prompt: Prompt, vocabulary: int, backend: str) -> tap.Rows:
    """What the scheduler wrote for a prompt. `PrerequisiteError`: the disk is full; `EngineError`: it is not whole."""
    if (failure := folder / tap.FAILURE).exists():
        raise PrerequisiteError(
            f"the distributions cannot be kept in {folder.parent} ({failure.read_text()}): give --scratch on a larger "
            "disk, or lower --positions"
        )
    try:
        rows = tap.read(tap.chunk_path(folder, _rid(index)), vocabulary)
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
