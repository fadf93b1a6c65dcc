"""A measurement is a plan, arms in turn, a record, and views. This is what all instruments share.

An instrument says what is asked (`plan`, from which its command's flags are made), which cells of work there are, which
worker an arm has, how one cell is run, and how a record is shown. `Instrument.measure` does the rest: model and
provenance, the record and going on with it, engines that share the GPU, the seconds there are, and arms that fail.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, DirectoryPath, Field

from sage_eval.arms import gpu
from sage_eval.arms.shape import SHAPES, describe, write_shape
from sage_eval.arms.spec import ArmSpec, parse_arms, role
from sage_eval.arms.turns import Say, Turns, fitting
from sage_eval.arms.worker import Worker
from sage_eval.data.folder import use_data
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.parsing import parse_pairs
from sage_eval.render.figures import Svg
from sage_eval.render.sections import Part
from sage_eval.store import record as records
from sage_eval.store.lock import lock
from sage_eval.store.provenance import Provenance, describe_model, find_model
from sage_eval.store.record import ArmEntry, Record

SOON = 600.0
"""Seconds within which an engine that has nothing to compute answers."""
Arms = Annotated[tuple[ArmSpec, ...], BeforeValidator(parse_arms)]
Pairs = Annotated[dict[str, Any], BeforeValidator(parse_pairs)]


class Plan(BaseModel):
    """What every instrument is asked. Descriptions are the help texts of the flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="model folder or hub id")
    arms: Arms = Field(
        description="BACKEND or PREFILL+DECODE, settings after a colon: fa3,sage_attn+fa3:variant=int8-fp8",
    )
    baseline: str | None = Field(None, description="the arm to compare with; default: the first")
    model_args: Pairs = Field(default_factory=dict, description="name=value,… for all arms: arguments of the engine")
    seed: int = Field(0, ge=0, description="seed of prompts and samples")
    output: Path | None = Field(None, description="run folder; default: results/INSTRUMENT-MODEL")
    total: float | None = Field(None, gt=0, description="seconds for all, engine starts included; repeat to go on")
    shared_gpu: bool = Field(False, description="measure although another process is on the GPU")

    def baseline_name(self) -> str:
        """Of the arm to compare with. Raises `UsageError` where it is none of the arms."""
        names = [arm.name for arm in self.arms]
        if self.baseline is not None and self.baseline not in names:
            raise UsageError(f"--baseline {self.baseline} is none of the arms {', '.join(names)}")
        return self.baseline or names[0]


class TextPlan(Plan):
    """What instruments are asked besides that serve texts of WikiText-2."""

    data_dir: Path | None = Field(None, description="folder with the data sets; default: the hub")
    scratch: DirectoryPath | None = Field(None, description="folder for large temporary files; default: the system's")


SLACK_TOKENS = 2048
SPEED_ARGUMENTS = {
    "mode": "throughput",
    "mem_fraction_static": 0.98,
    "disable_radix_cache": True,
    "disable_prefill_cuda_graph": True,
    "enable_fp32_lm_head": False,
    "sleep_on_idle": True,
}
"""Of `ArmOptions.from_arguments`, for every instrument of speed.

The KV cache is to be sized by tokens, as a share of the memory would depend on which other engine starts first. The
prefix cache is off, as random prompts share no prefix. Logits are computed in the model's dtype, as a server would.
"""


class SpeedPlan(Plan):
    """What instruments of speed are asked besides: they need no weights, only a model's shape."""

    shape: str | None = Field(None, description=f"random weights of a published shape: {', '.join(SHAPES)}")
    resident: int | None = Field(None, ge=1, description="engines on the GPU at once; default: as many as fit")
    chunk: int | None = Field(None, description="chunked_prefill_size; default: SGLang's own")
    load_format: str | None = Field(None, description="SGLang's load_format; default: dummy without weights")

    def engine(self) -> dict[str, Any]:
        """Arguments of the engine that decide the numbers."""
        return {**SPEED_ARGUMENTS, "chunked_prefill_size": self.chunk, "load_format": self.load_format}

    def graphs(self, batch: int) -> dict[str, Any]:
        """Decode of up to `batch` sequences in CUDA graphs, unless the user says something of graphs."""
        if any("graph" in name and "prefill" not in name for name in self.model_args):
            return {}
        return {"cuda_graph_max_bs_decode": batch} if batch else {"disable_decode_cuda_graph": True}


def cache_for(tokens: int) -> int:
    """The KV cache that holds so many tokens, rounded up, with pages that are not full and SGLang's own reserve."""
    return -(-(tokens + SLACK_TOKENS) // 1024) * 1024


class Row(records.Row):
    """One arm in one cell. Rows of one `block` were measured in turn, and are paired; others are not."""

    arm: str
    cell: str
    block: int


P = TypeVar("P", bound=Plan)
Q = TypeVar("Q", bound=BaseModel)
R = TypeVar("R", bound=Row)


@dataclass
class Session(Generic[P, R]):
    """One command at work.

    `scratch` is a folder for what need not outlive it, `logs` one for the workers' logs; `shared` is what an
    instrument's `work` opens for all arms.
    """

    plan: P
    model: Path
    record: Record[R]
    turns: Turns[Any]
    scratch: Path
    logs: Path
    say: Say
    shared: Any = None

    def done(self, arm: str, cell: str) -> bool:
        """Whether the record has a row of `arm` in `cell`."""
        return any((row.arm, row.cell) == (arm, cell) for row in self.record.rows)

    def block(self, names: Sequence[str]) -> int:
        """The block of what `names` are measured for now: a new one with the baseline, which the others then join."""
        mine = [row.block for row in self.record.rows if row.arm == self.turns.baseline]
        return self.next_block() if self.turns.baseline in names or not mine else max(mine)

    def next_block(self) -> int:
        """A number for the rows that are measured in turn now."""
        return 1 + max((row.block for row in self.record.rows), default=-1)


class Measurement(ABC, Generic[Q, R]):
    """What commands and reports know: a plan, a record, and how it is shown. `kind` names command, file and folder."""

    kind: ClassVar[str]
    title: ClassVar[str]
    plan: type[Q]
    row: type[R]

    def file(self, folder: Path) -> Path:
        """Its record in a run folder."""
        return folder / f"{self.kind}.json"

    def resolve(self, plan: Q, model: Path) -> Q:
        """The plan with what the model decides, as whether it has weights."""
        if isinstance(plan, SpeedPlan) and plan.load_format is None:
            return plan.model_copy(update={"load_format": "auto" if any(model.glob("*.safetensors")) else "dummy"})
        return plan

    def check(self, plan: Q, model: Path) -> None:
        """Refuse, before any engine is started, what cannot be measured. Raises `UsageError`."""

    @abstractmethod
    def settings(self, plan: Q) -> dict[str, Any]:
        """What decides the numbers: with other ones the rows of two commands do not compare."""

    @abstractmethod
    def measure(self, plan: Q, *, command: str = "", say: Say = lambda _: None) -> tuple[Record[R], Path]:
        """The record, with what it lacked, and its folder."""

    @abstractmethod
    def view(self, record: Record[R]) -> "View":
        """The record as people see it."""

    def failed(self, record: Record[R], plan: Q) -> bool:
        """Whether anything that the command asked for has failed: its exit code is 1 then."""
        return isinstance(plan, Plan) and record.failed(arm.name for arm in plan.arms)


class Instrument(Measurement[P, R]):
    """A measurement of cells by arms in turn."""

    worker: ClassVar[str]
    """`module:Class` that an arm's process runs; see `arms.worker`."""
    needs_baseline: ClassVar[bool] = False
    """Arms are compared with what the baseline leaves in `Session.scratch`: it runs in every command that adds one."""

    @abstractmethod
    def arguments(self, plan: P) -> dict[str, Any]:
        """Of `ArmOptions.from_arguments`, the same for every arm."""

    @abstractmethod
    def cells(self, plan: P) -> Sequence[str]:
        """The work, in the order in which it is done."""

    @abstractmethod
    def run(self, session: Session[P, R], cell: str, names: Sequence[str]) -> Iterable[R]:
        """Measure one cell with the arms `names`, which are up, in turn; through `session.turns.guarded`."""

    def order(self, session: Session[P, R], arm: ArmSpec) -> dict[str, Any]:
        """Keyword arguments of the worker's class."""
        return {"model": str(session.model), "arguments": self._arguments(session.plan, arm)}

    def options(self, plan: P, model: Path, arm: ArmSpec) -> ArmOptions:
        """The engine of an arm. Raises `UsageError` for what no engine takes."""
        return ArmOptions.from_arguments(str(model), **self._arguments(plan, arm))

    def introduce(self, session: Session[P, R], worker: Worker) -> None:
        """Wait until an arm's engine is up, and note what it says of itself."""
        introduce(session, worker)

    def warm_up(self, session: Session[P, R], worker: Worker) -> None:
        """Ready an arm for its first cell, once all that start with it are up."""

    def cache_tokens(self, plan: P) -> int:
        """Tokens of the KV cache that an engine needs, for how many engines fit on the GPU."""
        return 0

    def expected(self, session: Session[P, R], cell: str, names: Sequence[str]) -> float:
        """Seconds that the cell will take, as far as the rows so far tell."""
        return 0.0

    def measure(self, plan: P, *, command: str = "", say: Say = lambda _: None) -> tuple[Record[R], Path]:
        """The record of `plan.output`, which is written whenever a cell is done, with what it lacked; and its folder.

        Raises `UsageError`, `PrerequisiteError` and `DataError` before an engine is started, and what the baseline's
        engine raises; another arm that fails is noted in the record.
        """
        plan, model, record, path = take_up(self, plan, command)
        self._enter(plan, model, record)
        if not plan.shared_gpu:
            gpu.require_idle()
        with at_work(path, [arm.name for arm in plan.arms], self.cells(plan), record):
            self._measure(plan, model, record, path, say)
        return record, path.parent

    def _measure(self, plan: P, model: Path, record: Record[R], path: Path, say: Say) -> None:
        resident = getattr(plan, "resident", 1) or fitting(record.provenance.model, self.cache_tokens(plan))
        with tempfile.TemporaryDirectory(
            prefix=f"sage-eval-{self.kind}-", dir=getattr(plan, "scratch", None), ignore_cleanup_errors=True
        ) as scratch:
            arms = {arm.name: arm for arm in plan.arms}
            turns = Turns(
                list(arms), plan.baseline_name(), record.arms,
                lambda name: Worker(name, self.worker, self.order(session, arms[name]), session.logs),
                say, resident=resident, total=plan.total,
            )  # fmt: skip
            session = Session(plan, model, record, turns, Path(scratch), path.parent / "logs", say)
            with turns:
                try:
                    self.work(session, lambda: records.write(path, record))
                finally:
                    records.write(path, record)

    def lacking(self, session: Session[P, R], cell: str, names: Sequence[str]) -> list[str]:
        """Those of the arms `names` that the cell is yet to be measured for."""
        return [name for name in names if not session.done(name, cell)]

    def unfinished(self, session: Session[P, R], names: Sequence[str]) -> list[str]:
        """Those of `names` that `finish` has work for although no cell lacks them."""
        return []

    def finish(self, session: Session[P, R], names: Sequence[str], save: Callable[[], None]) -> bool:
        """Do what comes after the last cell of `names`, whose engines are up; False where the time is over."""
        return True

    def work(self, session: Session[P, R], save: Callable[[], None]) -> None:
        """Measure what the record lacks, and `save` it whenever a cell is done."""
        record, turns, cells = session.record, session.turns, self.cells(session.plan)
        groups = turns.groups()
        for place, group in enumerate(groups):
            turns.keep(group)
            last = [name for name in group if not any(name in later for later in groups[place + 1 :])]
            first = self.needs_baseline and group == [turns.baseline]
            names = [arm.name for arm in session.plan.arms] if first else group
            lacking = any(self.lacking(session, cell, names) for cell in cells)
            if not (needed := group if lacking else self.unfinished(session, last)):
                continue
            if turns.over():
                return
            turns.begin(needed, partial(self.introduce, session), partial(self.warm_up, session))
            for cell in cells if lacking else ():
                wanted = self.lacking(session, cell, turns.up(group))
                # The baseline runs once more beside an arm that is new: only what ran in turn can be paired.
                names = [name for name in turns.up(group) if name in {*wanted, turns.baseline}]
                if not wanted and not first:
                    continue
                if turns.over(self.expected(session, cell, names), what=f"{cell} and what follows"):
                    self.finish(session, turns.up(group), save)
                    return
                record.rows += self.run(session, cell, names)
                turns.each(names, lambda worker: turns.cover(worker.name, worker.ask("coverage", within=SOON)))
                save()
                if first and (error := record.arms[turns.baseline].error):
                    raise SageEvalError(f"the baseline failed: {error}")
            if not self.finish(session, last, save):
                return

    def _arguments(self, plan: P, arm: ArmSpec) -> dict[str, Any]:
        return {**self.arguments(plan), **plan.model_args, **arm.arguments}

    def _enter(self, plan: P, model: Path, record: Record[R]) -> None:
        """Give each arm its place in the record. Whatever is wrong with any is raised here."""
        options = {arm.name: self.options(plan, model, arm) for arm in plan.arms}
        base = options[plan.baseline_name()]
        for arm in plan.arms:
            mine = options[arm.name]
            same = (mine.backend, mine.attention) == (base.backend, base.attention)
            part: records.Role = "baseline" if mine is base else "floor" if same else role(mine)
            known = record.arms.get(arm.name, ArmEntry(role=part, arguments=arm.arguments))
            record.arms[arm.name] = known.model_copy(update={"role": part})


@dataclass(frozen=True)
class View:
    """A record to read: `parts` are paragraphs of Markdown, tables and folded parts, in order; figures go with them."""

    title: str
    parts: Sequence[Part]
    figures: Sequence[Svg] = ()


def introduce(session: Session[Any, Any], worker: Worker) -> None:
    """Wait until an arm's engine is up, and note what it says of itself; it may count its start seconds itself."""
    reply, seconds = worker.ready()
    entry = session.record.arms[worker.name]
    session.record.arms[worker.name] = entry.model_copy(update={"start_seconds": round(seconds, 1), **reply})
    session.say(f"{worker.name} is up after {seconds:.0f} s")


def at_work(
    path: Path, arms: Collection[str], cells: Sequence[str], record: Record[Any]
) -> AbstractContextManager[None]:
    """Hold the record `path` during a block: rows of two commands at a time would replace each other's.

    The lock's file says what is asked, for `sage-eval watch`. Raises `UsageError` where another command holds it.
    """
    asked = {(arm, cell) for arm in arms for cell in cells}
    done = len(asked & {(row.arm, row.cell) for row in record.rows})
    note = json.dumps({"arms": list(arms), "cells": list(cells), "done": done})
    return lock(path.parent, f".{path.name}.lock", note)


def take_up(made: Measurement[P, R], plan: P, command: str) -> tuple[P, Path, Record[R], Path]:
    """The plan with what the model decides, the model's folder, the record to add rows to, and its file.

    Raises `UsageError`, `PrerequisiteError` and `DataError` where the plan, the model or the file will not do.
    """
    shape = getattr(plan, "shape", None)
    if (plan.model is None) == (shape is None):
        raise UsageError("give either a model or --shape for random weights")
    name = shape or Path(str(plan.model)).resolve().name
    path = made.file(plan.output or Path("results") / f"{made.kind}-{name}")
    model = (write_shape(shape, path.parent / "model") if shape else find_model(str(plan.model))).resolve()
    use_data(getattr(plan, "data_dir", None))
    plan = made.resolve(plan, model)
    made.check(plan, model)
    about = {"name": name, **describe(model)}
    if not isinstance(plan, SpeedPlan):  # speed does not depend on the weights
        found = describe_model(name, model)
        about |= {field: found[field] for field in ("sha256", "bytes")}
    new: Record[R] = Record[made.row](  # type: ignore[name-defined]
        kind=made.kind,
        provenance=Provenance.collect(about, command),
        settings=made.settings(plan),
        baseline=plan.baseline_name(),
    )
    return plan, model, records.resume(made.row, path, new), path
