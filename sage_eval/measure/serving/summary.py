"""Rows of `serving.json`, and their medians, quantiles and ratios."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from sage_eval.measure.base import Row
from sage_eval.measure.serving.plan import Cell
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from sage_eval.statistics.ratio import Ratio


class Kernel(BaseModel):
    """A kernel of the attention: `seconds` and `calls` of a prefill or of a decode step."""

    name: str
    seconds: float
    calls: float


class Profile(BaseModel):
    """One run more, after all that is timed, under a profiler: where the device's time went, or an `error`."""

    seconds: dict[str, float] = Field(default_factory=dict)
    """Of a prefill or of a decode step: attention, products, other, idle."""
    by: Literal["launch", "name"] = "launch"
    """How kernels found their part: by the layer that launched them, or many, as a graph replays them, by name."""
    guessed: float = 0.0
    """The share of the busy time whose kernels' names had not been seen under a layer."""
    kernels: list[Kernel] = Field(default_factory=list)
    """Of the attention, those with the most time."""
    error: str | None = None


class Served(Row):
    """One arm in one cell. All arms of a block did the same in turn, so their `seconds` are paired by position.

    `requests` of `tokens` tokens each (decode: new tokens timed). Of a mixed cell `tokens` are those of all prompts
    together, and `new_tokens` those of all answers.
    """

    requests: int
    tokens: int
    new_tokens: int | None = None
    seconds: list[float] = Field(default_factory=list)
    """Of a request or batch, for decode of a step; one per round. None where memory alone was asked for."""
    warm_up: float | None = None
    """The first run, in seconds, where it was left out of `seconds`."""
    memory: dict[str, int] = Field(default_factory=dict)
    """Bytes: `before_*` at rest, `peak_*` during the first run; `kv_cache` of the engine."""
    gpu: list[dict[str, Any]] = Field(default_factory=list)
    """`arms.gpu.state` before and after the block."""
    skipped: str | None = None
    """Why nothing was measured."""
    profile: Profile | None = None

    @property
    def work(self) -> Cell:
        """The cell as kind and size."""
        return Cell.parse(self.cell)

    @property
    def computed(self) -> int:
        """Tokens of a run: of prompts, of one decode step, or of a mix's prompts and answers."""
        own = {"decode": self.requests, "mixed": self.tokens + (self.new_tokens or 0)}
        return own.get(self.work.kind, self.requests * self.tokens)

    @property
    def fastest(self) -> float:
        """Seconds of the fastest run; of the only one where nothing was timed."""
        return min(self.seconds or [self.warm_up or 0.0])


def typical(record: Record[Served], arm: str, kind: str) -> dict[int, float]:
    """Size → fastest seconds of `arm` so far."""
    rows = [row for row in record.rows if (row.arm, row.work.kind) == (arm, kind) and not row.skipped]
    return {size: min(row.fastest for row in rows if row.work.size == size) for size in {row.work.size for row in rows}}


def latest(record: Record[Served], arm: str, cell: Cell) -> Served | None:
    """The last row of `arm` in `cell` that has times."""
    return next((row for row in reversed(record.rows) if (row.arm, row.work) == (arm, cell) and row.seconds), None)


KINDS = ("prefill", "packed", "decode", "mixed")
CLASSES = (("small", 1024, 0, 4096), ("medium", 8192, 4096, 32768), ("large", 32768, 32768, 1 << 40))
"""Name, the size it is measured at if possible, and the sizes (from, up to but not including) that belong to it."""
UNSTEADY = 1.25
"""p80 over p20 beyond which a cell's times are called unsteady: where the GPU is busy they differ by a few per cent."""


def counted(record: Record[Served]) -> list[Served]:
    """The one row of each arm in each cell that is shown, by kind, size, and the record's order of arms.

    Beside the baseline is worth more than alone, more rounds than fewer; of several such the last counts.
    """
    arms, paired = list(record.arms), {row.block for row in record.rows if row.arm == record.baseline and row.seconds}
    best: dict[tuple[str, str], Served] = {}
    for row in sorted(record.rows, key=lambda row: (row.block in paired, len(row.seconds))):
        if row.seconds:
            best[row.arm, row.cell] = row
    return sorted(best.values(), key=lambda row: (KINDS.index(row.work.kind), row.work.size, arms.index(row.arm)))


def compared(record: Record[Served], row: Served) -> "tuple[Ratio, float] | None":
    """How many times as fast as the baseline, and the median seconds of the baseline's runs that it is compared with.

    None for the baseline, or where that has no times. Where it ran in another block the two were not interleaved.
    """
    from sage_eval.statistics.ratio import ratio  # scipy would slow --help

    bases = [r for r in record.rows if (r.arm, r.cell) == (record.baseline, row.cell) and r.seconds]
    if row.arm == record.baseline or not bases:
        return None
    beside = [base for base in bases if base.block == row.block]
    quotient = ratio((beside or bases)[-1].seconds, row.seconds, paired=bool(beside))
    runs = beside[-1].seconds[: quotient.rounds] if beside else bases[-1].seconds
    return quotient, float(np.median(runs))


def quantiles(row: Served) -> tuple[float, float, float]:
    """p20, p50 and p80 in seconds."""
    p20, p50, p80 = np.quantile(row.seconds, (0.2, 0.5, 0.8)).tolist()
    return p20, p50, p80


def unsteady(row: Served) -> bool:
    """Whether the times spread so far that a ratio says little."""
    p20, _, p80 = quantiles(row)
    return p80 > UNSTEADY * p20


def nearest(rows: list[Served]) -> dict[str, Served]:
    """Class of lengths (`small`, `medium`, `large`) → the prefill among `rows` whose length is nearest to it."""
    return {
        name: min(fitting, key=lambda row: abs(row.work.size - target))
        for name, target, low, high in CLASSES
        if (fitting := [row for row in rows if row.work.kind == "prefill" and low <= row.work.size < high])
    }


def skipped(record: Record[Served], kind: str, rows: list[Served]) -> list[str]:
    """Why arms were not measured in cells of a kind that `rows` lack."""
    measured = {(row.arm, row.cell) for row in rows}
    reasons = {(row.arm, row.cell): row for row in record.rows if row.skipped and row.work.kind == kind}
    missing = [row for key, row in reasons.items() if key not in measured]
    return [f"`{row.arm}` at {row.work.size:,}: not measured, {row.skipped}" for row in missing]
