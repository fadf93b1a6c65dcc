"""The Python interface: a run as pandas data frames, and a comparison that runs from Python.

```python
import sage_eval
run = sage_eval.load("results/reference-model-h100")
run.verdicts[["task", "verdict", "difference", "low", "high", "margin"]]
run.samples.query("task == 'sage_prose'").pivot(index="doc_id", columns="arm", values="acc")
```
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from sage_eval.store.folder import Run


@dataclass(frozen=True)
class Frames:
    """A run folder as data frames, each made when it is first asked for. `run` is the same as records."""

    run: "Run"

    @cached_property
    def arms(self) -> "DataFrame":
        """One row per arm: its role, backend, settings, items, seconds, and tokens by phase and kernel."""
        return _frame(
            {
                "arm": name, "role": arm.record.spec.role, "backend": arm.backend, "items": arm.record.items,
                **(arm.record.engine.get("attention_settings") or {}),
                **{f"seconds_{part}": seconds for part, seconds in arm.record.seconds.items()},
                **(arm.record.engine.get("coverage") or {}).get("tokens", {}),
            }
            for name, arm in self.run.arms.items()
        )  # fmt: skip

    @cached_property
    def samples(self) -> "DataFrame":
        """One row per answered item and arm; each metric is a column, of a text its sum beside `METRIC_weight`.

        Two arms answered the same where `task`, `doc_id`, `filter` and `prompt` are the same. `logprobs` are in nats.
        """
        return _frame(_sample(name, sample) for name, arm in self.run.arms.items() for sample in arm.samples)

    @cached_property
    def scores(self) -> "DataFrame":
        """One row per arm, task and metric against the baseline: both values, difference, 95 % interval, flips.

        In the metric's own unit; perplexities as natural logarithms, where they are compared.
        """
        return _frame(
            {
                "arm": pair.candidate, "role": pair.role, "task": row.task, "metric": row.metric, "n": row.n,
                "baseline": row.baseline.value, "candidate": row.candidate.value,
                **_estimate(row.difference), "identical": row.identical,
                "lost": row.flips.lost if row.flips else None, "gained": row.flips.gained if row.flips else None,
            }
            for pair in self.run.comparison.pairs
            for row in pair.tasks
        )  # fmt: skip

    @cached_property
    def verdicts(self) -> "DataFrame":
        """One row per candidate and task: verdict, reason, difference with the interval held against ±`margin`.

        `floor` is the difference of the floor arm that is farthest from the baseline.
        """
        judged = self.run.comparison.verdict
        return _frame(
            {
                "task": task.task, "arm": task.candidate, "metric": task.metric, "verdict": task.verdict,
                "reason": task.reason, **_estimate(task.interval), "margin": task.margin,
                "floor": task.floors[task.floor].difference.value if task.floor else None, "coverage": task.coverage,
            }
            for task in (judged.tasks if judged else [])
        )  # fmt: skip


def load(folder: str | Path) -> Frames:
    """A finished run folder; `DataError` says which file is missing, damaged or of an unknown version."""
    from sage_eval.store.folder import load

    return Frames(load(folder))


def compare(model: str | Path, **settings: Any) -> Frames:
    """Run a comparison, as `sage-eval compare MODEL` does, and return it; `settings` are its flags by name.

    What is finished is kept: the same call goes on with it. The report is written into the run folder. Raises what the
    command would print, such as `UsageError`.
    """
    from sage_eval.compare import run as runs
    from sage_eval.config import from_sources
    from sage_eval.report import measurements, pages
    from sage_eval.report.comparison import report

    config = from_sources({"model": str(model), **settings}, None)
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    run = runs.compare(config, argv=["compare", str(model), *flags])
    pages.write(report(run, measurements.found(run.folder)), run.folder)
    return Frames(run)


def _frame(rows: Iterator[dict[str, Any]]) -> "DataFrame":
    import pandas

    return pandas.DataFrame(list(rows))


def _sample(arm: str, sample: Any) -> dict[str, Any]:
    row = {"arm": arm, **sample.model_dump(exclude={"metrics", "cell", "sizes"}), **sample.cell}
    for name, value in sample.metrics.items():
        row |= {name: value[0], f"{name}_weight": value[1]} if isinstance(value, tuple) else {name: value}
    return row


def _estimate(found: Any) -> dict[str, float | None]:
    names = {"difference": "value", "se": "se", "low": "low", "high": "high"}
    return {name: getattr(found, field, None) for name, field in names.items()}
