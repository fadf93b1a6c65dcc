"""What a training run is told."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference_model.recipe.curriculum import STAGES, Stage
from reference_model.recipe.model import Shape

PATHS = ("data", "out", "start")


@dataclass
class Settings:
    """`data` is what `prepare` wrote. One of `steps` and `minutes` is the whole schedule.

    `seconds` is for this process: it stops and saves after so many, or after `stop_at` steps. `start` is a folder of
    shards to begin from; a state file in `out` is taken up by itself.
    """

    data: Path
    out: Path
    steps: int = 0
    minutes: float = 0.0
    seconds: float = 1e9
    stop_at: int = 1 << 60
    start: Path | None = None
    seed: int = 0
    rate: float = 3e-3
    decay: float = 0.25
    dropout: float = 0.1
    workers: int = 0
    evaluate_every: float = 90.0  # seconds of training
    stages: tuple[Stage, ...] = STAGES
    shape: Shape = field(default_factory=Shape)

    def told(self) -> dict[str, Any]:
        """For the log: everything but folders, and whether the run began with other weights."""
        found = {name: value for name, value in dataclasses.asdict(self).items() if name not in PATHS}
        return found | {"from_weights": self.start is not None}
