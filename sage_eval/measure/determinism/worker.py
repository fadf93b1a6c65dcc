"""An arm's process for `determinism`: serves the prompts in every way, with two engines, one after the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage_eval.arms.engine import EngineHost
from sage_eval.measure.determinism.instrument import WAYS
from sage_eval.measure.determinism.ways import Prompt, against, serve


class DeterminismWorker(EngineHost):
    """The engine that is open first serves prompts whole; chunking is a setting of an engine, so it needs another."""

    def __init__(self, model: str, arguments: dict[str, Any]) -> None:
        # The prefix cache is on, so that `prefix` can use it, and emptied before whatever must not.
        self._order: dict[str, Any] = {"model": model, "arguments": arguments, "disable_radix_cache": False}
        super().__init__(**self._order, chunked_prefill_size=-1)

    def serve(self, prompts: Sequence[Prompt], chunk: int, generated: int, whole: str) -> dict[str, Any]:
        """Fields of a row. The log-probabilities of `whole` go to that file, [prompts, tokens/2] in nats."""
        backend = self.arm.backend
        answers = {way: serve(self.arm, prompts, way, generated) for way in WAYS if way != "chunked"}
        self.arm.close()
        super().__init__(**self._order, chunked_prefill_size=chunk)
        answers["chunked"] = serve(self.arm, prompts, "chunked", generated)
        np.save(Path(whole), answers["whole"].logprobs)
        ways = [against(answers["whole"], answers[way], way).model_dump() for way in WAYS if way != "whole"]
        return {"backend": backend, "ways": ways}
