"""What a benchmark of engines measures, and with what."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_eval.attention.source import source_hash
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.shape import describe, write_shape
from sage_eval.runs.manifest import devices, find_model, host, versions

ENGINE = {
    "mode": "throughput",
    "mem_fraction_static": 0.98,
    "disable_radix_cache": True,
    "disable_prefill_cuda_graph": True,
    "enable_fp32_lm_head": False,
    "sleep_on_idle": True,
}
"""Of `ArmOptions.from_arguments`, for every benchmark.

The KV cache is to be sized by tokens, as a share of the memory would depend on which other engine starts first. The
prefix cache is off, as random prompts share no prefix. Logits are computed in the model's dtype, as a server would.
"""


def subject_name(model: str | None, shape: str | None) -> str:
    """What a model, or a shape with random weights, is called. `UsageError` unless one of them is given."""
    if (model is None) == (shape is None):
        raise UsageError("give either a model or --shape for random weights")
    return shape or Path(str(model)).name


def subject(model: str | None, shape: str | None, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The model's folder, below `folder` for a shape, and the options of a plan that random weights need."""
    source = write_shape(shape, folder / "model") if shape else find_model(str(model))
    return source.resolve(), {} if any(source.glob("*.safetensors")) else {"load_format": "dummy"}


def baseline_of(model: Path, arms: Sequence[BenchArm], baseline: str | None) -> str:
    """The name of the arm to compare with, the first by default.

    Raises `UsageError` where it is none of `arms`, `PrerequisiteError` where `model` is no model folder.
    """
    if not (model / "config.json").is_file():
        raise PrerequisiteError(f"{model} holds no config.json: give a model folder, or --shape for random weights")
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise UsageError(f"--baseline {baseline} is none of the arms {', '.join(names)}")
    return baseline or names[0]


def provenance(name: str, source: Path) -> dict[str, Any]:
    """The fields of `measured.Measured` that say what is measured, with which code, where and when."""
    return {
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "model": {"name": name, **describe(source)},
        "versions": versions(),
        "host": host(),
        "devices": devices(),
        "code": source_hash(),
    }
