"""One model for everything a comparison can be told, and the one place where its sources meet.

A setting is taken from the first of these that has it: the command's flags, the environment (`SAGE_EVAL_<NAME>`, and
`SAGE_ATTN_<NAME>` for the backend's own settings), the YAML file of `--config`, the default below. An empty list or
`0` given on purpose is not "absent": only what was not given at all is inherited.

    sage-eval compare MODEL --limit 100
    SAGE_EVAL_LIMIT=100 sage-eval compare MODEL
    sage-eval compare --config run.yaml          # model: MODEL, limit: 100, attention: {variant: int8-fp8}
"""

import contextlib
import difflib
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import PrerequisiteError, UsageError

ENV_PREFIX = "SAGE_EVAL_"
# The tasks read SAGE_EVAL_DATA themselves, so it is the name users know.
_ENV_NAMES = {"SAGE_EVAL_DATA": "data_dir"}
# Read by the tasks alone.
TASK_VARIABLES = ("SAGE_EVAL_RETRIEVAL",)

Mode = Literal["fidelity", "throughput"]
# Arms that calibrate a comparison: floors, which should equal the baseline, and controls, which are damaged on purpose.
ARMS = ("repeat", "reorder", "exact", "control", "control-unsmoothed")
CALIBRATE = ("repeat", "exact", "control")
VERDICTS = ("equivalent", "worse", "better", "inconclusive", "not established")
DEFAULT_TASKS = ("sage_wikitext", "sage_mmlu", "sage_retrieval")


def nearest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """`"; did you mean a, b?"` for the names closest to `name`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=count, cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else ""


def parse_pairs(value: Any) -> Any:
    """`"a=1,b=[2,3]"` (or a list of such, or a JSON object) as `{"a": 1, "b": [2, 3]}`; values are read as YAML."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    pairs: dict[str, Any] = {}
    for text in value:
        if str(text).lstrip().startswith("{"):
            pairs |= yaml.safe_load(text)
            continue
        pairs |= _pairs(str(text))
    return pairs


def _pairs(text: str) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in [part for part in re.split(r",(?![^\[]*\])", text) if part.strip()]:
        name, equals, scalar = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{item!r} is not of the form name=value")
        pairs[name.strip()] = _scalar(scalar)
    return pairs


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    # YAML 1.1 takes 1e-3 for text.
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _split(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        return [part.strip() for text in value for part in str(text).split(",") if part.strip()]
    return value


def _arm_names(value: Any) -> Any:
    names = _split(value)
    for name in names if isinstance(names, list) else ():
        if name.startswith("stress="):
            _check_dose(name)
        elif name not in ARMS and not re.fullmatch(r"floor=\w+(\+\w+)?", name):
            raise ValueError(
                f"unknown arm {name!r}{nearest(name, ARMS)}; valid: {', '.join(ARMS)}, floor=BACKEND, stress=DOSE"
            )
    return list(dict.fromkeys(names)) if isinstance(names, list) else names


def _check_dose(name: str) -> None:
    dose = name.removeprefix("stress=")
    if not re.fullmatch(r"[1-9]\d{0,4}", dose) or int(dose) & (int(dose) - 1):
        raise ValueError(f"{name!r}: a dose is a power of two, such as stress=16 (1 is the model itself)")


def _verdicts(value: Any) -> Any:
    names = _split(value)
    if not isinstance(names, list):
        return names
    names = [name.replace("-", " ") for name in names]
    if unknown := [name for name in names if name not in VERDICTS]:
        raise ValueError(f"unknown verdict {unknown[0]!r}; valid: {', '.join(VERDICTS)}")
    return names


class RunConfig(BaseModel):
    """A comparison: a model, tasks, and the arms that answer them. Descriptions are the help texts of the flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="model folder or hub id")
    candidate: str = Field(
        "sage_attn", min_length=1, description="attention backend under test; PREFILL+DECODE for two (sage_attn+fa3)"
    )
    baseline: str | None = Field(None, description="attention backend to compare with; default: SGLang's own choice")
    tasks: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        DEFAULT_TASKS, min_length=1, description="task or group names, separated by commas"
    )
    limit: int | None = Field(None, gt=0, description="items per task (per subject of MMLU); default: all")
    mode: Mode = Field(
        "fidelity",
        description="fidelity: every prefill token through the backend, no prefix cache; throughput: as a server would",
    )
    data_dir: Path | None = Field(None, description="folder with the data sets; default: the hub")
    output: Path | None = Field(None, description="run folder; default: results/<model>-<candidate>-<hash>")
    min: Annotated[dict[str, float], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict, description="task=value: exit with 1 where the candidate scores lower"
    )
    arms: Annotated[tuple[str, ...], BeforeValidator(_arm_names)] = Field(
        (),
        description="calibration arms: repeat and reorder (the baseline again; in another order and concurrency), "
        "exact (another exact kernel), floor=BACKEND, control (INT4 Q·K), control-unsmoothed (no smooth_k), "
        "stress=DOSE (the candidate on an equal model with scaled outliers; doses are powers of two)",
    )
    margin: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict,
        description="name=value: largest difference that counts as equivalent, for a task, a metric of lm-eval, or "
        "accuracy (0.005), retrieval (0.02), log_perplexity (0.005)",
    )
    fail_on: Annotated[tuple[str, ...], BeforeValidator(_verdicts)] = Field(
        (), description=f"exit with 1 on any of these verdicts: {', '.join(VERDICTS)}"
    )
    top_logprobs: int = Field(
        16,
        ge=0,
        description="most probable tokens kept at each position of the texts, for the KL divergence; 0: none",
    )
    attention: AttentionSettings = Field(default_factory=AttentionSettings)
    model_args: Annotated[dict[str, Any], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict, description="name=value,… for both arms: any argument of SGLang's engine"
    )
    task_args: Annotated[dict[str, Any], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict, description="name=value,… for the tasks, such as the lengths of sage_retrieval"
    )
    parallel: int = Field(
        1,
        ge=1,
        description="arms at a time, shared out among the GPUs; on one GPU each needs its share: --model-args "
        "mem_fraction_static=…,max_total_tokens=… (their seconds then say little)",
    )
    seed: int = Field(1234, ge=0, description="seed of Python, NumPy, torch and the few-shot sampler")
    lm: str = Field("sglang-sage", description="lm-eval model (a registered name or module:Class) that runs the arms")


def from_sources(
    flags: Mapping[str, Any], environ: Mapping[str, str] | None = None, file: Path | None = None
) -> RunConfig:
    """Merge flags (absent ones left out or `None`), environment and YAML file into one checked configuration.

    Raises `UsageError` naming the setting, the bad value and the valid ones; warns of unknown `SAGE_EVAL_*` names.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in flags.items() if value is not None}
    from_file = _read_yaml(file) if file else {}
    attention = {**_mapping(from_file, "attention"), **_attention_env(environ), **_mapping(flags, "attention")}
    merged = {**from_file, **_read_env(environ), **flags}
    if attention:
        merged["attention"] = AttentionSettings.from_mapping(attention).model_dump()
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def _mapping(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name) or {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}={value!r}: must be a mapping of {', '.join(AttentionSettings.model_fields)}")
    return dict(value)


def _attention_env(environ: Mapping[str, str]) -> dict[str, Any]:
    return AttentionSettings.from_env(environ).model_dump(exclude_unset=True)


def _read_env(environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in TASK_VARIABLES:
            continue
        name = _ENV_NAMES.get(variable, variable.removeprefix(ENV_PREFIX).lower())
        if name in RunConfig.model_fields and name != "attention":
            found[name] = value
        else:
            known = [ENV_PREFIX + field.upper() for field in RunConfig.model_fields] + list(_ENV_NAMES)
            warnings.warn(f"{variable} is not a setting and is ignored{nearest(variable, known)}", stacklevel=3)
    return found


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PrerequisiteError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{file} must be a mapping of settings, such as `model: PATH`")
    return {str(name): value for name, value in values.items()}


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{name} is missing: give it as an argument, as {ENV_PREFIX}{name.upper()} or in the --config file"
    if first["type"] == "extra_forbidden":
        fields = RunConfig.model_fields
        return f"unknown setting {name}{nearest(name, fields)}; valid: {', '.join(fields)}"
    return f"{name}={first['input']!r}: {first['msg']}"
