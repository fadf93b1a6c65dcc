"""`sage-eval bench serving` and `bench memory` as functions."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sage_eval.attention.source import source_hash
from sage_eval.errors import UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.serving import record
from sage_eval.probes.serving.measure import Measurement
from sage_eval.probes.serving.plan import make_plan
from sage_eval.probes.serving.record import MEMORY, SERVING, Record
from sage_eval.probes.shape import describe, write_shape
from sage_eval.runs.manifest import devices, find_model, host, versions

FILES = {"serving": SERVING, "memory": MEMORY}


def bench(
    kind: Literal["serving", "memory"],
    model: str | None,
    arms: str,
    *,
    shape: str | None = None,
    baseline: str | None = None,
    output: Path | None = None,
    shared_gpu: bool = False,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> tuple[Record, Path]:
    """Measure `arms` (see `arms.parse_arms`) on `model`, or on random weights of `shape`; resumes what `output` holds.

    `options` are fields of `plan.Plan`. Returns the record and its folder. Raises `UsageError` and `PrerequisiteError`
    before an engine is started, `EngineError` where the baseline's does not come up; other arms that fail are noted in
    the record.
    """
    if (model is None) == (shape is None):
        raise UsageError("give either a model or --shape for random weights")
    parsed = parse_arms(arms)
    name = shape or Path(str(model)).name
    folder = output or Path("results") / f"{kind}-{name}"
    path = folder / FILES[kind]
    source = write_shape(shape, folder / "model") if shape else find_model(str(model))
    if shape or not any(source.glob("*.safetensors")):
        options.setdefault("load_format", "dummy")
    plan = make_plan(source.resolve(), parsed, baseline, **options)
    if not shared_gpu:
        gpu.refuse_company()
    into = record.resume(
        path,
        Record(
            kind=kind,
            created=datetime.now(UTC).replace(microsecond=0).isoformat(),
            command=command,
            baseline=plan.baseline,
            model={"name": name, **describe(source)},
            settings=plan.settings(),
            versions=versions(),
            host=host(),
            devices=devices(),
            code=source_hash(),
        ),
    )
    Measurement(plan, into, path, say).run()
    return into, folder
