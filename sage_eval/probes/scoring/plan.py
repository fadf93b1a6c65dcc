"""What `sage-eval bench scoring` is to measure."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sage_eval.probes.arms import BenchArm
from sage_eval.probes.scoring.record import Part


class Plan(BaseModel):
    """What to measure; checked before an engine starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    name: str
    """Of the model, in the record."""
    parts: list[Part]
    arms: list[BenchArm]
    models: list[str]
    tasks: dict[str, int]
    """Task → documents of each of its subjects."""
    task_args: dict[str, Any] = {}
    window: int
    data_dir: Path | None = None
    resident: int = 1
    prompts: int
    prompt_tokens: int
    rounds: int
    modes: list[str]
    requests: list[int]
    dummy: bool = False
    """Random weights: as fast as any, but their scores mean nothing."""
    model_args: dict[str, Any] = {}
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, by part."""
        own = {
            "evaluation": ("models", "tasks", "task_args", "window", "resident"),
            "rate": ("prompts", "prompt_tokens", "rounds", "modes"),
            "client": ("requests",),
        }
        data = self.model_dump(mode="json")
        return {part: {name: data[name] for name in own[part]} for part in self.parts} | {
            "model_args": data["model_args"]
        }
