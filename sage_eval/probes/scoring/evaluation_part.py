"""The same tasks through several lm-eval models on the same weights, one process each."""

import contextlib
from collections.abc import Callable
from typing import Any

from sage_eval.engine.options import ArmOptions
from sage_eval.errors import SageEvalError
from sage_eval.probes.client import Worker
from sage_eval.probes.scoring import agreement, columns
from sage_eval.probes.scoring.plan import Plan
from sage_eval.probes.scoring.record import Column, Task

RESIDENT_TOKENS = 262_144
"""KV cache of each of several engines on one GPU: they must not each take what is free."""

Start = Callable[[str, dict[str, Any]], contextlib.AbstractContextManager[Worker]]


class Evaluation:
    """Fills `found`, model → column. `start` begins a worker by name and order; `write` is called after each model."""

    def __init__(
        self, plan: Plan, found: dict[str, Column], start: Start, write: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._plan, self._found, self._start, self._write, self._say = plan, found, start, write, say

    def run(self) -> None:
        """All columns anew. A model that fails is noted and the next one follows."""
        plan, found = self._plan, self._found
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
                    name: stack.enter_context(self._start(name, self._order(name)))
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
        self._found[name].arguments = {**arguments, "pretrained": plan.name}
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
