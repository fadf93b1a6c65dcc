"""`sage-eval probe drift` as a function: one engine an arm, all of them on the same prompts, one after the other."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sage_eval.attention.source import source_hash
from sage_eval.engine.arm import Arm, open_arm
from sage_eval.engine.options import SAGE, ArmOptions
from sage_eval.engine.requests import GenerateRequest
from sage_eval.errors import EngineError, SageEvalError, UsageError
from sage_eval.probes.arms import BenchArm, parse_arms, role
from sage_eval.probes.articles import Prompt, first_tokens
from sage_eval.probes.drift import lines, reduce
from sage_eval.probes.drift.figures import figures
from sage_eval.probes.drift.lines import Kernel, Watch
from sage_eval.probes.drift.record import DRIFT, ArmRecord, DriftRecord, Role
from sage_eval.runs.files import write_bytes, write_json

SEED = 0
ENGINE: dict[str, Any] = {"mode": "fidelity", "disable_cuda_graph": True, "random_seed": SEED}
"""Whole prompts, one prefill each, and no graph, in which the hook would not run."""

Opened = Callable[..., AbstractContextManager[Arm]]


@dataclass(frozen=True)
class Contender:
    """An arm: its options, and what opens its engine with more engine arguments (None: it has none, see `shared`)."""

    name: str
    options: ArmOptions
    opened: Opened | None

    @property
    def kernel(self) -> Kernel:
        """Its prefill, for the baseline's engine to ask."""
        engine, attention = self.options.engine, self.options.attention
        backend = engine.get("prefill_attention_backend") or engine.get("attention_backend")
        settings = attention.model_dump(mode="json", exclude_none=True) if backend == SAGE and attention else None
        return Kernel(arm=self.name, backend=str(backend), settings=settings)


def run(
    model: str,
    arms: str,
    *,
    prompts: int,
    tokens: int,
    one_engine: bool = False,
    common: Mapping[str, Any] | None = None,
    output: Path | None = None,
    scratch: Path | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[DriftRecord, Path]:
    """The drift of `arms` (see `arms.parse_arms`) on articles of WikiText-2; writes `drift.json` as engines finish.

    `one_engine` gives only those arms an engine of their own whose kernel cannot be called in the baseline's. `common`
    are further engine arguments of all arms. Returns the record and its folder. Raises `UsageError`, `DataError` and
    `PrerequisiteError` before an engine is started, `EngineError` where the baseline's fails.
    """
    from model_adapters._tokens import Tokens
    from sage_eval.runs import manifest

    contenders = [
        contender(model, arm, {"max_length": tokens + 1, **(common or {})}, alone=not (place and one_engine))
        for place, arm in enumerate(parse_arms(arms))
    ]
    source = manifest.find_model(model)
    folder = output or Path("results") / f"drift-{source.resolve().name}"
    tokenizer = Tokens.load(model, add_bos=None, prefix=None)
    chosen = first_tokens(tokenizer.encode, prompts, tokens)
    about = {
        "command": command,
        "model": {key: value for key, value in manifest.describe_model(model, source).items() if key != "files"},
        "text": "WikiText-2 test, the first tokens of articles",
        "tokens": tokens,
        "source": source_hash(),
        "versions": manifest.versions(),
        "host": manifest.host(),
        "devices": manifest.devices(),
    }
    record = None
    for record in probe(contenders, chosen, about, scratch):
        write_json(folder / DRIFT, record.model_dump(mode="json"))
        say(f"measured: {', '.join(dict.fromkeys(series.arm for series in record.series))}")
    if record is None:
        raise UsageError("no arm is named")
    for name, svg in figures(record).items():
        write_bytes(folder / f"{name}.svg", svg.encode())
    return record, folder


def contender(model: str, arm: BenchArm, common: Mapping[str, Any], *, alone: bool) -> Contender:
    """The arm with `common` engine arguments; `alone`: in an engine of its own. `UsageError` for what cannot be."""
    arguments = ENGINE | dict(common) | arm.arguments
    options = ArmOptions.from_arguments(model, **arguments)
    for name in ("tp_size", "dp_size", "pp_size"):
        if options.engine.get(name, 1) != 1:
            raise UsageError(f"{name}={options.engine[name]}: drift is measured on one GPU; leave {name} out")
    if options.mode != "fidelity":
        raise UsageError("mode=throughput cuts prompts and caches prefixes; drift is measured on whole ones")
    if not options.engine["disable_cuda_graph"]:
        raise UsageError("disable_cuda_graph=False: nothing is seen of what runs inside a graph; leave it out")

    def opened(**more: Any) -> Arm:
        return open_arm(ArmOptions.from_arguments(model, **arguments, **more))

    found = Contender(arm.name, options, opened)
    return found if alone or found.kernel.backend not in lines.CALLABLE else replace(found, opened=None)


def probe(
    contenders: Sequence[Contender], prompts: Sequence[Prompt], about: dict[str, Any], scratch: Path | None = None
) -> Iterator[DriftRecord]:
    """Measure; yields the record as far as it is after each engine. `about` has the record's descriptive fields.

    The baseline's outputs lie in a folder of their own under `scratch` (default: the system's) until the end: 2 bytes ·
    layers · prompts · tokens · heads · head size. `EngineError` where the baseline's engine fails; what another
    arm's raises is put into the record.
    """
    baseline, *others = contenders
    with tempfile.TemporaryDirectory(prefix="sage-eval-drift-", dir=scratch) as directory:
        folder = Path(directory)
        np.save(folder / lines.PROMPTS, np.array(prompts, dtype=np.int32))
        arms = [
            _arm(contender, "baseline" if contender is baseline else role(contender.options))
            for contender in contenders
        ]
        kernels = [other.kernel for other in others]
        watch = Watch(folder=folder, arm=baseline.name, is_baseline=True, kernels=kernels)
        with _engine(baseline, watch) as (arm, seconds):
            _serve(arm, prompts)
            _serve(arm, prompts)
            arms[0] = arms[0].model_copy(update=_seen(arm, seconds))
            why = _failures(folder, baseline.name)
            arms[1:] = _forced(folder, arms, why)
            about = {**about, "other_error": why.get(lines.OTHER)}
            turns = [each.name for each in arms if each.shared and not each.error]
            for name in [lines.OTHER, *turns] if lines.OTHER not in why else turns:
                (folder / lines.TURN).write_text(name)
                _serve(arm, prompts)
        yield _record(folder, arms, len(prompts), about)
        for place, contender in enumerate(others, 1):
            if contender.opened is None:
                continue
            try:
                with _engine(contender, Watch(folder=folder, arm=contender.name)) as (arm, seconds):
                    _serve(arm, prompts)
                    update = _seen(arm, seconds)
            except SageEvalError as error:
                update = {"error": str(error).splitlines()[0]}
            arms[place] = arms[place].model_copy(update=update)
            yield _record(folder, arms, len(prompts), about)


@contextmanager
def _engine(contender: Contender, watch: Watch) -> Iterator[tuple[Arm, float]]:
    """The arm, watched, and the seconds that its engine took to start."""
    if contender.opened is None:
        raise UsageError(f"{contender.name}: the baseline needs an engine of its own")
    started = time.monotonic()
    with contender.opened(forward_hooks=watch.spec()) as arm:
        yield arm, time.monotonic() - started


def _serve(arm: Arm, prompts: Sequence[Prompt]) -> None:
    for prompt in prompts:  # one at a time, so that every arm has the same batches
        arm.generate([GenerateRequest(prompt, {"max_new_tokens": 1, "temperature": 0.0, "ignore_eos": True})])


def _arm(contender: Contender, part: Role) -> ArmRecord:
    attention = contender.options.attention
    settings = attention.model_dump(mode="json", exclude_unset=True) if attention else {}
    shared, arguments = contender.opened is None, contender.options.engine | settings
    return ArmRecord(name=contender.name, role=part, arguments=arguments, shared=shared)


def _seen(arm: Arm, seconds: float) -> dict[str, Any]:
    return {"backend": arm.backend, "coverage": dict(arm.coverage.tokens), "start_seconds": seconds}


def _failures(folder: Path, baseline: str) -> dict[str, str]:
    """Why a kernel could not be asked about the baseline's inputs, by name. `EngineError` where none was asked."""
    found = list(lines.read(folder))
    if not found:
        raise EngineError(f"{baseline}: the hook saw no attention layer; SGLang has this model's under other names")
    return {line.arm: line.error for line in found if line.error}


def _forced(folder: Path, arms: Sequence[ArmRecord], why: Mapping[str, str]) -> Iterator[ArmRecord]:
    """The arms after the baseline, with the reason where their kernel was not asked about the baseline's inputs."""
    asked = {line.arm for line in lines.read(folder) if line.way == "forced" and line.sums}
    unknown = "this backend's kernel cannot be called outside of its own engine"
    for arm in arms[1:]:
        error = why.get(arm.name) or (None if arm.name in asked else unknown)
        yield arm.model_copy(update={"forced_error": error, "error": error if arm.shared else None})


def _record(folder: Path, arms: list[ArmRecord], prompts: int, about: dict[str, Any]) -> DriftRecord:
    other = {lines.OTHER} if about["other_error"] else set()
    failed = {
        "free": {arm.name for arm in arms if arm.error} | other,
        "forced": {arm.name for arm in arms if arm.forced_error} | other,
    }
    found = list(lines.read(folder))
    kept = [line for line in found if line.arm not in failed[line.way]]
    return DriftRecord(
        created=datetime.now(UTC).replace(microsecond=0).isoformat(), seed=SEED, prompts=prompts, arms=list(arms),
        series=reduce.series(kept, prompts), keys=reduce.keys(found), **about,
    )  # fmt: skip
