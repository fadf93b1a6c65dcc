"""`sage-eval bench rate` as a function."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_eval.errors import UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.rate import record
from sage_eval.probes.rate.measure import Measurement
from sage_eval.probes.rate.plan import make_plan
from sage_eval.probes.rate.record import RATE, Record
from sage_eval.probes.shape import describe, write_shape
from sage_eval.runs.manifest import devices, find_model, host, versions


def bench(
    model: str | None,
    arms: str,
    rates: Sequence[float | None],
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

    `rates` are requests a second, None for all at once; `options` are fields of `plan.Plan`. Returns the record and
    its folder. Raises `UsageError` and `PrerequisiteError` before a server is started, `EngineError` where the
    baseline's does not come up; other arms that fail are noted in the record.
    """
    if (model is None) == (shape is None):
        raise UsageError("give either a model or --shape for random weights")
    parsed = parse_arms(arms)
    name = shape or Path(str(model)).name
    folder = output or Path("results") / f"rate-{name}"
    source = write_shape(shape, folder / "model") if shape else find_model(str(model))
    if shape or not any(source.glob("*.safetensors")):
        options.setdefault("load_format", "dummy")
    plan = make_plan(source.resolve(), parsed, baseline, rates, **options)
    if not shared_gpu:
        gpu.refuse_company()
    into = record.resume(
        folder / RATE,
        Record(
            created=datetime.now(UTC).replace(microsecond=0).isoformat(),
            command=command,
            baseline=plan.baseline,
            model={"name": name, **describe(source)},
            settings=plan.settings(),
            versions=versions(),
            host=host(),
            devices=devices(),
        ),
    )
    Measurement(plan, into, folder / RATE, say).run()
    return into, folder
