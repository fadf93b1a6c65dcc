"""An arm's process for `drift`: an engine whose attention layers are watched (`hook`)."""

from typing import Any

import numpy as np

from sage_eval.arms.engine import EngineHost
from sage_eval.engine.requests import GenerateRequest
from sage_eval.measure.drift.lines import PROMPTS, TURN, Watch


class DriftWorker(EngineHost):
    """Serves the prompts; what its scheduler finds is in `watch.folder`."""

    def __init__(self, model: str, arguments: dict[str, Any], watch: dict[str, Any]) -> None:
        self.folder = Watch.model_validate(watch).folder
        super().__init__(model, arguments, forward_hooks=Watch.model_validate(watch).spec())

    def serve(self, turn: str | None = None) -> str:
        """Serve every prompt alone, with the kernel of the arm `turn` in place of the engine's own; the backend."""
        (self.folder / TURN).write_text(turn or "")
        for prompt in np.load(self.folder / PROMPTS).tolist():
            self.arm.generate([GenerateRequest(tuple(prompt), {"max_new_tokens": 1, "temperature": 0.0})])
        return self.arm.backend
