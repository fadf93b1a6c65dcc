"""What one arm is told: everything that decides its numbers, and nothing else, so that its hash says "the same"."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.config import TASK_VARIABLES, RunConfig
from sage_eval.runs.calibration import Role, Wanted, calibration


class ArmSpec(BaseModel):
    """One engine configuration and the tasks it answers; `python -m sage_eval.runs.arm` runs exactly this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    role: Role = Field(default_factory=lambda data: "baseline" if data.get("name") == "baseline" else "candidate")
    lm: str
    model_args: dict[str, Any]
    task_args: dict[str, Any]
    model_hash: str
    tasks: tuple[str, ...]
    limit: int | None
    seed: int
    data_dir: Path | None
    stack: dict[str, str]
    environment: dict[str, str] = {}

    @property
    def backend(self) -> str | None:
        """The backend asked for, `prefill+decode` where they differ, or None for SGLang's own choice."""
        split = [self.model_args.get(f"{phase}_attention_backend") for phase in ("prefill", "decode")]
        return "+".join(map(str, split)) if any(split) else self.model_args.get("attention_backend")

    def fingerprint(self) -> str:
        """SHA-256 over the canonical JSON: two arms with the same one need not both be run."""
        text = json.dumps(self.model_dump(mode="json", exclude={"name", "role"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def arms(
    config: RunConfig, model_hash: str, stack: dict[str, str], devices: Sequence[Mapping[str, Any]] = ()
) -> list[ArmSpec]:
    """The arms of a comparison, baseline first; they differ in what they name and in nothing else.

    `devices` are the GPUs as in the manifest: they decide which other exact kernel there is.
    """
    wanted = [
        Wanted("baseline", "baseline", config.baseline, config.attention),
        Wanted("candidate", "candidate", config.candidate, config.attention),
        *calibration(config, devices),
    ]
    return [
        ArmSpec(
            name=arm.name,
            role=arm.role,
            lm=config.lm,
            model_args=_model_args(config, arm),
            task_args=config.task_args,
            model_hash=model_hash,
            tasks=config.tasks,
            limit=config.limit,
            seed=config.seed,
            data_dir=config.data_dir,
            stack=stack,
            environment={name: os.environ[name] for name in TASK_VARIABLES if os.environ.get(name)},
        )
        for arm in wanted
    ]


def _model_args(config: RunConfig, arm: Wanted) -> dict[str, Any]:
    arguments: dict[str, Any] = {"pretrained": config.model, "mode": config.mode}
    # Other models of lm-eval would refuse the argument; they are told only what was asked for.
    if config.top_logprobs and (config.lm == "sglang-sage" or "top_logprobs" in config.model_fields_set):
        arguments["top_logprobs"] = config.top_logprobs
    arguments |= {**config.model_args, **arm.extra}
    if backend := arm.backend:
        # "sage_attn+fa3": prefill and decode, as SGLang's two arguments of that name.
        prefill, plus, decode = backend.partition("+")
        arguments |= (
            {"prefill_attention_backend": prefill, "decode_attention_backend": decode}
            if plus
            else {"attention_backend": backend}
        )
    if "sage_attn" in (arguments.get(f"{phase}attention_backend") for phase in ("", "prefill_", "decode_")):
        arguments |= arm.attention.model_dump()
    return arguments
