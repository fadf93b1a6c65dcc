"""The arms of a comparison, as what each of them is told."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_eval.compare.calibration import Wanted, calibration, candidates
from sage_eval.compare.tasks import task_files
from sage_eval.config import TASK_VARIABLES, RunConfig
from sage_eval.engine.options import SAGE
from sage_eval.store.asked import Asked
from sage_eval.store.provenance import content_hash, describe_model, find_model
from sage_eval.store.spec import ArmSpec

_NO_DATA = ("models", "manifest.json")
"""Of a prepared folder: what is no data, or says where it came from."""
_PATHS = ("shift", "balance", "tokenizer", "tokenizer_path")
"""Arguments that are paths even where no separator shows it."""


def arms(
    config: RunConfig, model_hash: str, stack: dict[str, str], devices: Sequence[Mapping[str, Any]] = ()
) -> list[ArmSpec]:
    """The arms of a comparison, baseline first; they differ in what they name and in nothing else.

    `devices` are the GPUs as in the manifest: they decide which other exact kernel there is.
    """
    wanted = [
        Wanted("baseline", "baseline", config.baseline, config.attention),
        *candidates(config),
        *calibration(config, devices),
    ]
    files = task_files(config.tasks, config.include_path)
    told = {arm.name: _model_args(config, arm) for arm in wanted}
    asked = {name: getattr(config, name) for name in Asked.model_fields}
    data = data_hash(config)
    return [
        ArmSpec(
            name=arm.name,
            role=arm.role,
            lm=config.lm,
            model_args=told[arm.name],
            task_args=config.task_args,
            model_hash=_own_hash(arm) or model_hash,
            tasks=config.tasks,
            seed=config.seed,
            data_dir=config.data_dir,
            stack=stack,
            environment={name: os.environ[name] for name in TASK_VARIABLES if os.environ.get(name)},
            task_files=files,
            contents=data | contents(told[arm.name]),
            **asked,
        )
        for arm in wanted
    ]


def _own_hash(arm: Wanted) -> str | None:
    """Of the checkpoint that an arm names for itself."""
    if (own := arm.extra.get("pretrained")) is None:
        return None
    return str(describe_model(own, find_model(own))["sha256"])


def data_hash(config: RunConfig) -> dict[str, str]:
    """The hash of what is in the data folder, if there is one, under the name that `ArmSpec.contents` has for it."""
    return {"data_dir": content_hash(config.data_dir.expanduser(), _NO_DATA)} if config.data_dir else {}


def contents(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the files and folders that arguments name, the model aside."""
    paths = {
        name: Path(value).expanduser()
        for name, value in arguments.items()
        if name != "pretrained" and isinstance(value, str) and (name in _PATHS or os.sep in value)
    }
    return {name: content_hash(path) for name, path in paths.items() if path.exists()}


def _model_args(config: RunConfig, arm: Wanted) -> dict[str, Any]:
    arguments: dict[str, Any] = {"pretrained": config.model, "mode": config.mode}
    # Other models of lm-eval would refuse the argument; they are told only what was asked for.
    if config.top_logprobs and (config.lm == "sglang-sage" or "top_logprobs" in config.model_fields_set):
        arguments["top_logprobs"] = config.top_logprobs
    if config.servers:
        arguments["serve"] = True
    arguments |= {**config.model_args, **arm.extra}
    if backend := arm.backend:
        # "sage_attn+fa3": prefill and decode, as SGLang's two arguments of that name.
        prefill, plus, decode = backend.partition("+")
        arguments |= (
            {"prefill_attention_backend": prefill, "decode_attention_backend": decode}
            if plus
            else {"attention_backend": backend}
        )
    if SAGE in (arguments.get(f"{phase}attention_backend") for phase in ("", "prefill_", "decode_")):
        arguments |= arm.attention.model_dump(exclude_none=True)
    return arguments
