"""What the scheduler process is told about the drift to be measured, and what it answers: a line a prompt and layer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.probes.drift.statistics import Outliers, Sums

BASELINE: Literal["baseline"] = "baseline"
EXACT: Literal["exact"] = "exact"
Against = Literal["baseline", "exact"]
Way = Literal["forced", "free"]
OTHER = "torch SDPA"
"""The exact 16-bit kernel of another make, beside which every backend's distance is shown."""
REPEAT = "repeat"
"""The baseline's engine on the same prompts once more: what differs there is no drift."""
FACTORY = "sage_eval.probes.drift.hook:watch"
LINES, PROMPTS, TURN = "lines.jsonl", "prompts.npy", "turn"
CALLABLE = ("sage_attn", "torch_native", "triton", "fa3")
"""Backends whose kernel `kernels.forced` can call outside of their own engine (the last two on CUDA)."""


class Kernel(BaseModel):
    """An arm whose prefill kernel is asked about the baseline's inputs: backend and `sage_attn`'s settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    backend: str
    settings: dict[str, Any] | None = None


class Watch(BaseModel):
    """What the hook is told: the folder all engines share, the arm that runs, and, for the baseline, the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    arm: str
    is_baseline: bool = False
    kernels: list[Kernel] = []

    def spec(self) -> list[dict[str, Any]]:
        """The value of SGLang's `forward_hooks`."""
        config = self.model_dump(mode="json")
        return [{"name": "sage-eval-drift", "target_modules": ["*attn"], "hook_factory": FACTORY, "config": config}]


class Line(BaseModel):
    """One line of the file: a prompt's layer in an arm against the baseline or exact attention.

    `keys` are of K as it is and smoothed, once a prompt and layer, in the baseline's engine. `error` is why the arm's
    kernel could not be asked about the baseline's inputs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    way: Way
    arm: str
    against: Against
    prompt: int
    layer: int
    sums: Sums | None = None
    keys: tuple[Outliers, Outliers] | None = None
    error: str | None = None


def read(folder: Path) -> Iterator[Line]:
    """The lines in `folder` so far."""
    path = folder / LINES
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(Line.model_validate_json, file)
