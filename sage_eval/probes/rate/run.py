"""`sage-eval bench rate` as a function."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sage_eval.probes import gpu
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.rate import record
from sage_eval.probes.rate.measure import Measurement
from sage_eval.probes.rate.plan import make_plan
from sage_eval.probes.rate.record import RATE, Record
from sage_eval.probes.subject import provenance, subject, subject_name


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
    name, parsed = subject_name(model, shape), parse_arms(arms)
    folder = output or Path("results") / f"rate-{name}"
    source, needed = subject(model, shape, folder)
    plan = make_plan(source, parsed, baseline, rates, **(needed | options))
    if not shared_gpu:
        gpu.refuse_company()
    into = record.resume(
        folder / RATE,
        Record(
            command=command,
            baseline=plan.baseline,
            settings=plan.settings(),
            **provenance(name, source),
        ),
    )
    Measurement(plan, into, folder / RATE, say).run()
    return into, folder
