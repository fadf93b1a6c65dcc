"""`sage-eval bench scoring` as a function."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sage_eval.attention.source import source_hash
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.client import Worker
from sage_eval.probes.scoring import agreement, columns, record, tokenizer
from sage_eval.probes.scoring.record import SCORING, Client, Column, Part, Rate, Record, Round, Task
from sage_eval.probes.shape import describe
from sage_eval.runs.files import write_json
from sage_eval.runs.manifest import devices, host, versions

MODULE = "sage_eval.probes.scoring.worker"
RESIDENT_TOKENS = 262_144
"""KV cache of each of several engines on one GPU: they must not each take what is free."""


class Plan(BaseModel):
    """What to measure; checked before an engine starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    name: str
    """Of the model, in the record."""
    parts: list[Part]
    arms: list[BenchArm]
    models: list[str]
    tasks: dict[str, int]
    """Task → documents of each of its subjects."""
    task_args: dict[str, Any] = {}
    window: int
    data_dir: Path | None = None
    resident: int = 1
    prompts: int
    prompt_tokens: int
    rounds: int
    modes: list[str]
    requests: list[int]
    dummy: bool = False
    """Random weights: as fast as any, but their scores mean nothing."""
    model_args: dict[str, Any] = {}
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, by part."""
        own = {
            "evaluation": ("models", "tasks", "task_args", "window", "resident"),
            "rate": ("prompts", "prompt_tokens", "rounds", "modes"),
            "client": ("requests",),
        }
        data = self.model_dump(mode="json")
        return {part: {name: data[name] for name in own[part]} for part in self.parts} | {
            "model_args": data["model_args"]
        }


class Measurement:
    """Runs a plan part by part; the record is written whenever something is finished."""

    def __init__(self, plan: Plan, into: Record, path: Path, say: Callable[[str], None]) -> None:
        self._plan, self._record, self._path, self._say = plan, into, path, say

    def run(self) -> None:
        """Everything. An arm or model that fails is noted and the next one follows."""
        for part in self._plan.parts:
            {"evaluation": self._evaluation, "rate": self._rate, "client": self._client}[part]()

    def _write(self) -> None:
        write_json(self._path, self._record.model_dump(mode="json"))

    @contextlib.contextmanager
    def _worker(self, name: str, order: dict[str, Any]) -> Iterator[Worker]:
        worker = Worker(name, order, self._path.parent / "logs", MODULE)
        try:
            yield worker
        finally:
            worker.close()

    # -- evaluation -----------------------------------------------------------------------------------------------

    def _evaluation(self) -> None:
        plan, found = self._plan, self._record.evaluation
        found.clear()
        found |= {
            name: Column(model=name, absent=columns.absent(name, random_weights=plan.dummy)) for name in plan.models
        }
        bits = columns.bits(str(plan.model_args.get("dtype", "auto")))
        runnable = [name for name in plan.models if not found[name].absent]
        answers: dict[str, dict[str, agreement.Answers]] = {}
        for first in range(0, len(runnable), plan.resident):
            with contextlib.ExitStack() as stack:
                together = {
                    name: stack.enter_context(self._worker(name, self._order(name)))
                    for name in runnable[first : first + plan.resident]
                }
                for name, worker in together.items():  # nothing is measured while an engine still starts
                    self._ready(found[name], worker)
                for name, worker in together.items():
                    answers[name] = self._tasks(found[name], worker)
                    worker.dismiss()
                    worker.close()
                    if not plan.dummy:
                        agreement.compare(found, answers, bits)
                    self._write()
                    self._say(f"{name}: {found[name].error or 'done'}")

    def _column_arguments(self, name: str) -> dict[str, Any]:
        plan = self._plan
        shared = {**({"load_format": "dummy"} if plan.dummy else {}), **plan.model_args}
        if plan.resident > 1:
            shared.setdefault("max_total_tokens", RESIDENT_TOKENS)
            shared.setdefault("mem_fraction_static", 0.5)
            shared.setdefault("sleep_on_idle", True)  # the others wait while one is measured
        backend = dict(plan.arms[0].arguments)
        if name == "sglang":
            # It hands everything to SGLang itself, which knows our settings from the environment alone.
            backend = {key: value for key, value in backend.items() if key.endswith("attention_backend")}
        return columns.arguments(name, plan.model, plan.window, backend, shared)

    def _order(self, name: str) -> dict[str, Any]:
        plan = self._plan
        arguments = self._column_arguments(name)
        # A record is published: where somebody's model lies is nobody's business.
        self._record.evaluation[name].arguments = {**arguments, "pretrained": plan.name}
        options = ArmOptions.from_arguments(str(plan.model), mode="throughput", **plan.arms[0].arguments)
        return {
            "kind": "lm",
            "name": name,
            "model": str(plan.model),
            "arguments": arguments,
            "environment": options.environment() if name == "sglang" else {},
            "data_dir": str(plan.data_dir) if plan.data_dir else None,
        }

    def _ready(self, column: Column, worker: Worker) -> None:
        try:
            reply, _ = worker.ready()
            column.start_seconds = reply["seconds"]
        except SageEvalError as error:
            column.error = str(error)

    def _tasks(self, column: Column, worker: Worker) -> dict[str, agreement.Answers]:
        """All tasks through one model; its answers by task and document."""
        plan, answers = self._plan, dict[str, agreement.Answers]()
        if column.error:
            return {}
        try:
            column.warm_up_seconds = worker.ask("run", what="warm_up")["seconds"]
        except SageEvalError as error:
            column.error = str(error)
            return {}
        for task, limit in plan.tasks.items():
            try:
                reply = worker.ask("run", what="task", task=task, limit=limit, task_args=plan.task_args, seed=plan.seed)
            except SageEvalError as error:
                column.tasks[task] = Task(error=str(error))
                continue
            answers[task] = dict(reply.pop("answers"))
            column.tasks[task] = done = Task.model_validate(reply)
            self._say(f"{column.model}: {task} at {done.rate:.1f} items/s, {done.metric} {done.score:.5g}")
        return answers

    # -- rate -----------------------------------------------------------------------------------------------------

    def _rate(self) -> None:
        self._record.rate.clear()
        for arm in self._plan.arms:
            for mode in self._plan.modes:
                name = f"{arm.name}/{mode}"
                self._record.rate[name] = into = self._empty_rate(arm, mode)
                try:
                    self._rounds(name, into)
                except SageEvalError as error:
                    into.error = str(error)
                self._write()
                self._say(f"{name}: {into.error or f'{into.share:.1%} of the engine`s rate'}")

    def _empty_rate(self, arm: BenchArm, mode: str) -> Rate:
        plan = self._plan
        arguments = {
            "mode": mode,
            "max_length": 2 * plan.prompt_tokens + 8,
            "disable_cuda_graph": True,
            **({"load_format": "dummy", "skip_tokenizer_init": True} if plan.dummy else {}),
            **plan.model_args,
            **arm.arguments,
        }
        return Rate(arguments=arguments, prompts=plan.prompts)

    def _rounds(self, name: str, into: Rate) -> None:
        plan = self._plan
        order = {"kind": "arm", "model": str(plan.model), "arguments": into.arguments}
        with self._worker(name, order) as worker:
            into.start_seconds = worker.ready()[0]["seconds"]
            into.engine = worker.ask("run", what="told")["engine"]
            known = columns.vocabulary(plan.model)
            for index in range(-1, plan.rounds):  # the first one compiles kernels and does not count
                reply = worker.ask(
                    "run", what="round", count=plan.prompts if index >= 0 else max(1, plan.prompts // 4),
                    tokens=plan.prompt_tokens, vocabulary=known, seed=plan.seed + 1 + index,
                    scored_first=bool(index % 2),
                )  # fmt: skip
                if index >= 0:
                    into.rounds.append(Round.model_validate(reply))
            worker.dismiss()
        into.share = statistics.median(found.scored.rate / found.plain.rate for found in into.rounds)

    # -- client ---------------------------------------------------------------------------------------------------

    def _client(self) -> None:
        self._record.client.clear()
        for count in self._plan.requests:
            with self._worker(f"client-{count}", {"kind": "client"}) as worker:
                worker.ready()
                reply = worker.ask("run", what="score", requests=count, seed=self._plan.seed)
                worker.dismiss()
            self._record.client.append(Client.model_validate(reply))
            self._write()
            self._say(f"client: {count:,} requests done")


def bench(
    plan: Plan,
    folder: Path,
    *,
    shared_gpu: bool = False,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Record:
    """Measure `plan` into `folder/scoring.json`; parts that it does not ask for stay as they are there.

    Raises `UsageError` and `PrerequisiteError` before an engine is started; models and arms that fail are noted.
    """
    if not shared_gpu and {"evaluation", "rate"} & set(plan.parts):
        gpu.refuse_company()  # first of all: what is imported below may open the GPU itself
    if "evaluation" in plan.parts and not tokenizer.present(plan.model):
        raise UsageError(
            f"{plan.name} has no tokenizer for the tasks: lend it one by --tokenizer, or --parts rate,client"
        )
    for arm in plan.arms:  # whatever is wrong is said before an engine starts
        ArmOptions.from_arguments(str(plan.model), **plan.model_args, **arm.arguments)
    path = folder / SCORING
    into = record.beside(
        path,
        Record(
            created=datetime.now(UTC).replace(microsecond=0).isoformat(),
            command=command,
            model={"name": plan.name, **({"weights": "random"} if plan.dummy else {}), **describe(plan.model)},
            seed=plan.seed,
            settings=plan.settings(),
            versions=versions(),
            host=host(),
            devices=devices(),
            code=source_hash(),
        ),
        plan.parts,
    )
    Measurement(plan, into, path, say).run()
    return into
