"""`sage-eval bench serving` and `bench memory` as functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sage_eval.probes import gpu
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.serving import record
from sage_eval.probes.serving.measure import Measurement
from sage_eval.probes.serving.plan import make_plan
from sage_eval.probes.serving.record import MEMORY, SERVING, Record
from sage_eval.probes.subject import provenance, subject, subject_name

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
    name, parsed = subject_name(model, shape), parse_arms(arms)
    folder = output or Path("results") / f"{kind}-{name}"
    path = folder / FILES[kind]
    source, needed = subject(model, shape, folder)
    plan = make_plan(source, parsed, baseline, **(needed | options))
    if not shared_gpu:
        gpu.refuse_company()
    into = record.resume(
        path,
        Record(
            kind=kind,
            command=command,
            baseline=plan.baseline,
            settings=plan.settings(),
            **provenance(name, source),
        ),
    )
    Measurement(plan, into, path, say).run()
    return into, folder
