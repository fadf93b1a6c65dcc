"""Prefill attention kernels side by side on one GPU: time, TFLOP/s and the share of what the GPU allows.

The GPU's matrix and exp2 rates are measured first, in the same command, and set the limit: half of the FLOPs at the
rate of Q·K, half at that of P·V, or exp2 where that takes longer. Before a kernel is timed on a case, some rows of its
output are compared with exact attention. All kernels of a case are then timed in turn, several rounds, with a cold L2
cache. FLOPs are those the causal mask leaves. Quantisation is part of the time and also shown apart.

Kernels need no engine: of what instruments share, this one uses the record and the table. It takes turns by itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sage_eval.arms.turns import Say
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.measure.base import Measurement, Row, View, at_work
from sage_eval.measure.kernels.cases import CASES, KERNELS, OURS, Case
from sage_eval.render.table import MISSING, Table
from sage_eval.store import record as records
from sage_eval.store.provenance import Provenance
from sage_eval.store.record import ArmEntry, Record

CARD = "card"
"""The arm of the rows that are the GPU's own rates."""


def _parts(separator: str) -> BeforeValidator:
    return BeforeValidator(lambda text: [part.strip() for part in text.split(separator) if part.strip()])


class KernelsPlan(BaseModel):
    """What the benchmark is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path = Field(description="file of the record (JSON); what it has is kept, and not measured again")
    columns: Annotated[tuple[str, ...], _parts(",")] = Field((), description="kernels, separated by commas")
    cases: Annotated[tuple[str, ...], _parts(";")] = Field(
        (), description="cases such as 'd128 4x4096', separated by ';'"
    )
    rounds: int = Field(3, ge=1, description="times that each case's kernels are timed in turn")
    budget: float = Field(float("inf"), ge=0, description="seconds after which no further case is begun")


class Timing(Row):
    """A kernel (`arm`) on a case (`cell`), or a rate of the GPU; rows of one command are one block."""

    ms: tuple[float, float, float] | None = None
    """p20, p50 and p80 in milliseconds."""
    absent: str | None = None
    """Why the kernel did not run."""
    rate: float | None = None
    """10^12 operations per second."""


class Kernels(Measurement[KernelsPlan, Timing]):
    """Time prefill attention kernels side by side on this GPU, quantisation included."""

    kind, title = "kernels", "Prefill attention kernels"
    plan, row = KernelsPlan, Timing

    def file(self, folder: Path) -> Path:
        """Earlier versions wrote JSON lines."""
        made, lines = super().file(folder), folder / "bench.jsonl"
        return lines if lines.exists() and not made.exists() else made

    def settings(self, plan: KernelsPlan) -> dict[str, Any]:
        return {}  # the kernels and the GPU alone decide the times

    def measure(
        self, plan: KernelsPlan, *, command: str = "", say: Say = lambda _: None
    ) -> tuple[Record[Timing], Path]:
        """Time what the record in `plan.out` lacks; it is written whenever a kernel is timed.

        Raises `UsageError` for an unknown name and for the record of another GPU or other kernels, `PrerequisiteError`
        where there is no CUDA GPU.
        """
        import torch

        from sage_eval.measure.kernels.run import card_limits, run

        cases, columns = {case.name: case for case in CASES}, plan.columns or KERNELS
        for given, known in ((columns, KERNELS), (plan.cases, cases)):
            if unknown := next((name for name in given if name not in known), None):
                raise UsageError(f"{unknown!r} is unknown; known: {', '.join(known)}")
        if not torch.cuda.is_available():
            raise PrerequisiteError("kernels are timed on a CUDA GPU, and this machine has none")
        made = Provenance.collect({"name": self.kind}, command)
        record = records.resume(
            Timing, plan.out, Record[Timing](kind=self.kind, provenance=made, settings={}), flag="--out"
        )
        block = 1 + max((row.block for row in record.rows), default=-1)
        done = {(row.cell, row.arm) for row in record.rows if row.ms}
        record.rows += [Timing(arm=CARD, cell=name, block=block, rate=rate) for name, rate in card_limits().items()]
        for name in columns:
            record.arms.setdefault(name, ArmEntry(role="candidate" if name in OURS else "floor", arguments={}))
        chosen = [cases[name] for name in plan.cases] or CASES
        with at_work(plan.out, columns, [case.name for case in chosen], record):
            for found in run(chosen, columns, done=done, rounds=plan.rounds, budget=plan.budget):
                record.rows.append(Timing(block=block, **found))
                records.write(plan.out, record)
                say(f"{found['cell']:16} {found['arm']:14} {_cell(record.rows[-1])}")
        records.write(plan.out, record)
        return record, plan.out.parent

    def view(self, record: Record[Timing]) -> View:
        """The limits first, then TFLOP/s at p50 by case and kernel, the share of the limit, and what did not run."""
        limits: dict[str, float] = {}
        for row in record.rows:
            if row.rate is not None:  # of several commands the best
                limits[row.cell] = max(row.rate, limits.get(row.cell, 0.0))
        cells = {(row.cell, row.arm): row for row in record.rows if row.ms}
        kernels = [name for name in KERNELS if any(arm == name for _, arm in cells)]
        missing = {row.arm: row.absent for row in record.rows if row.absent and row.arm not in kernels}
        devices = ", ".join(device["name"] for device in record.provenance.devices)
        about = (
            f"{devices}; TFLOP/s at the median. Measured limits: "
            + ", ".join(f"{name} {rate:.4g}" for name, rate in limits.items())
            + f" · 10¹² per second. Source of sage_eval/attention: {record.provenance.code}"
        )
        rows = [
            (case.name, *map(_cell, found), _shares(case, found, limits))
            for case in CASES
            if any(found := [cells.get((case.name, name)) for name in kernels])
        ]
        table = Table("", ("case", *kernels, "of the limit"), rows)
        never = "\n".join(f"- {name} is not available: {reason}" for name, reason in missing.items())
        return View(self.title, [about, table, never] if never else [about, table])


def _cell(row: Timing | None) -> str:
    if row is None or not row.ms:
        return MISSING if row is None else f"not timed: {row.absent}"
    if row.arm == "quantise":  # no attention
        return f"{row.ms[1] * 1e3:.0f} µs"
    return f"{Case.named(row.cell).flops / row.ms[1] / 1e9:.0f}"


def _shares(case: Case, found: Sequence[Timing | None], limits: dict[str, float]) -> str:
    timed = [(row.arm, row.ms[1]) for row in found if row and row.ms and row.arm in OURS]
    return " / ".join(f"{case.limit_ms(limits, OURS[arm]) / ms:.0%}" for arm, ms in timed)
