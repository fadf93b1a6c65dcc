"""One model for everything a comparison can be told, and the one place where its sources meet.

A setting is taken from the first of these that has it: the command's flags, the environment (`SAGE_EVAL_<NAME>`, and
`SAGE_ATTN_<NAME>` for the backend's own settings), the YAML file of `--config`, that of `--suite`, the default below.
An empty list or `0` given on purpose is not "absent": only what was not given at all is inherited.

    sage-eval compare MODEL --limit 100
    SAGE_EVAL_LIMIT=100 sage-eval compare MODEL
    sage-eval compare --config run.yaml          # model: MODEL, limit: 100, attention: {variant: int8-fp8}
    sage-eval compare MODEL --suite standard --margin gsm8k=0.02
"""

import contextlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sage_eval.arms.spec import parse_arms
from sage_eval.attention.settings import AttentionSettings
from sage_eval.engine.options import SAGE, Mode
from sage_eval.errors import SettingWarning, UsageError
from sage_eval.parsing import nearest, parse_pairs, split
from sage_eval.store.asked import Asked
from sage_eval.suites import SettingsFile, find, read

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENV_PREFIX = "SAGE_EVAL_"
# The tasks read SAGE_EVAL_DATA themselves, so it is the name users know.
_ENV_NAMES = {"SAGE_EVAL_DATA": "data_dir"}
# Read by the tasks alone.
TASK_VARIABLES = ("SAGE_EVAL_RETRIEVAL",)

# Arms that calibrate a comparison: floors, which should equal the baseline, and controls, which are damaged on purpose.
ARMS = ("repeat", "reorder", "exact", "control", "control-unsmoothed")
CALIBRATE = ("repeat", "exact", "control", "stress=4", "stress=16")
VERDICTS = ("equivalent", "equivalent (blunt)", "worse", "loss found", "better", "inconclusive", "not established")
VERDICT_PANEL: dict[str, Any] = {"panel": "Calibration and verdict"}
"""Where help shows the flags of both."""
DEFAULT_TASKS = ("sage_wikitext", "sage_mmlu", "sage_retrieval")


def _candidates(value: Any) -> Any:
    """Arms as they are written everywhere, each checked."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    if not isinstance(text, str):
        return value
    try:
        return tuple(arm.name for arm in parse_arms(text, beside=["pretrained"]))
    except UsageError as error:
        raise ValueError(str(error)) from None


def _arm_names(value: Any) -> Any:
    names = split(value)
    for name in names if isinstance(names, list) else ():
        if name.startswith("stress="):
            dose = name.removeprefix("stress=")
            if not re.fullmatch(r"[1-9]\d{0,4}", dose) or int(dose) & (int(dose) - 1):
                raise ValueError(f"{name!r}: a dose is a power of two, such as stress=16 (1 is the model itself)")
        elif name not in ARMS and not re.fullmatch(r"floor=\w+(\+\w+)?", name):
            raise ValueError(
                f"unknown arm {name!r}{nearest(name, ARMS)}; valid: {', '.join(ARMS)}, floor=BACKEND, stress=DOSE"
            )
    return list(dict.fromkeys(names)) if isinstance(names, list) else names


def _verdicts(value: Any) -> Any:
    names = split(value)
    if not isinstance(names, list):
        return names
    typed = {flag_name(verdict): verdict for verdict in VERDICTS}
    names = [flag_name(name) for name in names]
    if unknown := [name for name in names if name not in typed]:
        raise ValueError(f"unknown verdict {unknown[0]!r}; valid: {', '.join(typed)}")
    return [typed[name] for name in names]


def flag_name(verdict: str) -> str:
    """How a verdict is typed in a shell: `equivalent-blunt`."""
    return re.sub(r"[^a-z]+", "-", verdict).strip("-")


class RunConfig(Asked):
    """A comparison: a model, tasks, and the arms that answer them. Descriptions are the help texts of the flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="model folder or hub id")
    candidate: Annotated[tuple[str, ...], BeforeValidator(_candidates)] = Field(
        (SAGE,),
        min_length=1,
        description="attention backend under test; PREFILL+DECODE for two (sage_attn+fa3), with settings of its own "
        "after a colon (sage_attn:variant=int8-fp8), pretrained=FOLDER among them: a checkpoint of the same function, "
        "as sage-eval balance makes it; may be given several times",
    )
    baseline: str | None = Field(None, description="attention backend to compare with; default: SGLang's own choice")
    tasks: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        DEFAULT_TASKS, min_length=1, description="task or group names, separated by commas"
    )
    suite: str | None = Field(
        None,
        description="take what is not given from a suite: quick, standard, long, checklist, or a YAML file",
    )
    mode: Mode = Field(
        "fidelity",
        description="fidelity: every prefill token through the backend, no prefix cache; throughput: as a server would",
    )
    data_dir: Path | None = Field(None, description="folder with the data sets; default: the hub")
    output: Path | None = Field(None, description="run folder; default: results/MODEL-CANDIDATE-HASH")
    min: Annotated[dict[str, float], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict, description="task=value: exit with 1 where the candidate scores lower"
    )
    calibrate: bool = Field(
        True,
        json_schema_extra=VERDICT_PANEL,
        description=f"run the calibration arms {', '.join(CALIBRATE)}, without which nothing can be called equivalent; "
        "stress only of SageAttention and where a checkpoint can be made (known layouts up to 16 GiB)",
    )
    arms: Annotated[tuple[str, ...], BeforeValidator(_arm_names)] = Field(
        (),
        json_schema_extra=VERDICT_PANEL,
        description="more calibration arms: repeat and reorder (the baseline again; in another order and concurrency), "
        "exact (another exact kernel), floor=BACKEND, control (INT4 Q·K), control-unsmoothed (no smooth_k), "
        "stress=DOSE (the candidate on an equal model with scaled outliers; doses are powers of two)",
    )
    margin: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict,
        json_schema_extra=VERDICT_PANEL,
        description="name=value: largest difference that counts as equivalent, for a task, a metric of lm-eval, or "
        "accuracy (0.005), retrieval (0.02), log_perplexity (0.005), kl_divergence (0.005)",
    )
    fail_on: Annotated[tuple[str, ...], BeforeValidator(_verdicts)] = Field(
        (),
        json_schema_extra=VERDICT_PANEL,
        description="exit with 1 on any of these verdicts: equivalent, equivalent-blunt, worse, loss-found, better, "
        "inconclusive, not-established",
    )
    until: Literal["settled"] | None = Field(
        None,
        json_schema_extra=VERDICT_PANEL,
        description="settled: items in a random order, looked at when 10, 25, 50 and 100 % of them are answered; a "
        "task gets no more items once its verdict is settled, and all intervals allow for the looks",
    )
    top_logprobs: int = Field(
        16,
        ge=0,
        description="most probable tokens kept at each position of the texts, for the KL divergence; 0: none",
    )
    attention: AttentionSettings = Field(default_factory=AttentionSettings, json_schema_extra={"panel": "sage_attn"})
    model_args: Annotated[dict[str, Any], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict, description="name=value,… for both arms: any argument of SGLang's engine"
    )
    task_args: Annotated[dict[str, Any], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict, description="name=value,… for the tasks, such as the lengths of sage_retrieval"
    )
    parallel: int = Field(
        1,
        ge=1,
        description="arms at a time, shared out among the GPUs; on one GPU each is given its share of the memory, "
        "unless --model-args has mem_fraction_static or max_total_tokens (their seconds then say little)",
    )
    servers: bool = Field(
        False,
        json_schema_extra={"panel": "Servers"},
        description="each arm is an SGLang server of its own, asked over HTTP and ended with its arm; of the baseline, "
        "the candidates and repeat it is also asked what sage-eval quick asks: speed, memory, retrieval, determinism",
    )
    seed: int = Field(1234, ge=0, description="seed of Python, NumPy, torch and the few-shot sampler")
    lm: str = Field(
        "sglang-sage",
        json_schema_extra={"hidden": True},
        description="lm-eval model (a registered name or module:Class) that runs the arms",
    )

    @model_validator(mode="after")
    def _servers_are_ours(self) -> Self:
        if self.servers and self.lm != "sglang-sage":
            raise ValueError(f"servers are SGLang's, and lm={self.lm} has none")
        return self

    @property
    def calibration(self) -> tuple[str, ...]:
        """The calibration arms: those of every comparison, and those that were asked for."""
        return tuple(dict.fromkeys((*(CALIBRATE if self.calibrate else ()), *self.arms)))


def from_sources(flags: Mapping[str, Any], file: Path | None = None) -> RunConfig:
    """Merge flags (absent ones left out or `None`), environment, YAML file and suite into one checked configuration.

    The first that has a setting decides; those of the backend are merged name by name, and a flag of pairs adds to
    those of the files. Raises `UsageError` naming the setting, with the file and line that it is on, the bad value and
    the valid ones; warns of unknown `SAGE_EVAL_*` names.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    environment = _environment()
    files = [read(file)] if file else []

    def first(name: str) -> Any:
        return next((s[name] for s in (given, environment, *(f.settings for f in files)) if s.get(name)), None)

    if suite := first("suite"):
        files.append(_for_tasks(find(str(suite)), first("tasks")))
        given["suite"] = files[-1].label
    for name in given.keys() & {name for file in files for name, value in file.settings.items() if type(value) is dict}:
        with contextlib.suppress(ValueError):  # which the setting's own validator explains
            given[name] = parse_pairs(given[name])
    merged: dict[str, Any] = {}
    for source in reversed((given, environment, *(file.settings for file in files))):
        for name, value in source.items():
            both = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = merged[name] | value if both else value
    try:
        config = RunConfig(**merged)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(_where(wrong["loc"], environment | given, files) + _explain(wrong)) from None
    config.attention.check()
    return config


def _for_tasks(suite: SettingsFile, tasks: Any) -> SettingsFile:
    """The suite, its margins only for those of its tasks that are asked, where others than its own are."""
    if not tasks or "margin" not in suite.settings:
        return suite
    margin = {name: value for name, value in suite.settings["margin"].items() if name in split(tasks)}
    return replace(suite, settings={**suite.settings, "margin": margin})


def _environment() -> dict[str, Any]:
    """What the environment gives, by the names of settings."""
    variables = {ENV_PREFIX + field.upper(): field for field in RunConfig.model_fields}
    known = [*_ENV_NAMES, *TASK_VARIABLES, *variables]
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name not in known:
            message = f"{name} is not a setting and is ignored{nearest(name, known)}"
            warnings.warn(message, SettingWarning, stacklevel=3)
    found: dict[str, Any] = {field: os.environ[name] for name, field in _ENV_NAMES.items() if os.environ.get(name)}
    if attention := AttentionSettings.from_env().model_dump(exclude_unset=True):
        found["attention"] = attention
    return found | {field: os.environ[name] for name, field in variables.items() if name in os.environ}


def _where(place: tuple[int | str, ...], given: Mapping[str, Any], files: Sequence[SettingsFile]) -> str:
    """File and line of the setting that is wrong, where no flag or variable that is `given` has it."""
    name, *inner = place or ("",)
    typed = given.get(str(name))
    if typed is not None and not (isinstance(typed, dict) and inner and inner[0] not in typed):
        return ""
    lines = [(file.path, line) for file in files if (line := file.line(place))]
    return f"{lines[0][0]}, line {lines[0][1]}: " if lines else ""


def _explain(error: "ErrorDetails") -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name} is missing: give it as an argument, as {ENV_PREFIX}{name.upper()} or in the --config file"
    if error["type"] == "extra_forbidden":
        fields = AttentionSettings.model_fields if len(error["loc"]) > 1 else RunConfig.model_fields
        return f"unknown setting {name}{nearest(str(error['loc'][-1]), fields)}; valid: {', '.join(fields)}"
    return f"{name}={error['input']!r}: {error['msg'].removeprefix('Value error, ')}"
