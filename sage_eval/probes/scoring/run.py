"""`sage-eval bench scoring` as a function."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_eval.attention.source import source_hash
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.client import Worker
from sage_eval.probes.scoring import columns, record, tokenizer
from sage_eval.probes.scoring.evaluation_part import Evaluation
from sage_eval.probes.scoring.plan import Plan
from sage_eval.probes.scoring.record import SCORING, Client, Rate, Record, Round
from sage_eval.probes.shape import describe
from sage_eval.runs.files import write_json
from sage_eval.runs.manifest import devices, host, versions

MODULE = "sage_eval.probes.scoring.worker"


class Measurement:
    """Runs a plan part by part; the record is written whenever something is finished."""

    def __init__(self, plan: Plan, into: Record, path: Path, say: Callable[[str], None]) -> None:
        self._plan, self._record, self._path, self._say = plan, into, path, say

    def run(self) -> None:
        """Everything. An arm or model that fails is noted and the next one follows; the client alone raises."""
        for part in self._plan.parts:
            {"evaluation": self._evaluation, "rate": self._rate, "client": self._client}[part]()

    def _evaluation(self) -> None:
        Evaluation(self._plan, self._record.evaluation, self._worker, self._write, self._say).run()

    def _write(self) -> None:
        write_json(self._path, self._record.model_dump(mode="json"))

    @contextlib.contextmanager
    def _worker(self, name: str, order: dict[str, Any]) -> Iterator[Worker]:
        worker = Worker(name, order, self._path.parent / "logs", MODULE)
        try:
            yield worker
        finally:
            worker.close()

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
