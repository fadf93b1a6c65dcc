"""What one arm is told: everything that decides its numbers, and nothing else, so that its hash says "the same"."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from sage_eval.store.asked import Asked
from sage_eval.store.record import Role


class ArmSpec(Asked):
    """One engine configuration and the tasks it answers; `compare.worker` runs exactly this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    role: Role = Field(default_factory=lambda data: "baseline" if data.get("name") == "baseline" else "candidate")
    lm: str
    model_args: dict[str, Any]
    task_args: dict[str, Any]
    model_hash: str
    tasks: tuple[str, ...]
    seed: int
    data_dir: Path | None
    stack: dict[str, str]
    environment: dict[str, str] = Field(default_factory=dict)
    task_files: str | None = None
    """SHA-256 of the user's own task files (`compare.tasks.task_files`)."""
    contents: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of what the paths in `data_dir` and `model_args` lead to, by their names there."""

    @property
    def backend(self) -> str | None:
        """The backend asked for, `prefill+decode` where they differ, or None for SGLang's own choice."""
        split = [self.model_args.get(f"{phase}_attention_backend") for phase in ("prefill", "decode")]
        return "+".join(map(str, split)) if any(split) else self.model_args.get("attention_backend")

    def deciding(self) -> dict[str, Any]:
        """What decides the numbers, paths replaced by what they lead to: where a file lies decides nothing."""
        told = self.model_dump(mode="json", exclude={"name", "role", "include_path"})
        told["model_args"].pop("pretrained", None)  # `model_hash` is its content
        for name in self.contents:
            told["model_args"].pop(name, None)
        if "data_dir" in self.contents:
            told["data_dir"] = None
        if self.task_files:
            told["tasks"] = [Path(task).name if task.endswith((".yaml", ".yml")) else task for task in self.tasks]
        return told

    def fingerprint(self) -> str:
        """SHA-256 over the canonical JSON: two arms with the same one need not both be run."""
        return hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()


def contents(specs: Iterable[ArmSpec]) -> dict[str, str]:
    """The data, the task files and each arm's own files, as the first digits of their hashes; of data "" if unknown."""
    found = {}
    for spec in specs:
        found["data"] = spec.contents.get("data_dir", "")[:16] if spec.data_dir else "from the hub"
        found |= {"task files": spec.task_files[:16]} if spec.task_files else {}
        files = {name: digest[:16] for name, digest in spec.contents.items() if name != "data_dir"}
        found |= {f"{spec.name}: {name}": digest for name, digest in files.items()}
    return found
