"""The engines that are up, one process an arm: started, warmed up, asked, ended; what they say goes to the record."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sage_eval.errors import SageEvalError
from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.client import Worker
from sage_eval.probes.serving.budget import Budget
from sage_eval.probes.serving.plan import Plan
from sage_eval.probes.serving.record import ArmRecord, Record
from sage_eval.probes.shape import vocabulary

Say = Callable[[str], None]
ALLOWANCE = 600.0
"""Seconds in which any command must be answered: kernels are compiled and traces written in them, beside the run."""
SLOWER = 10.0
"""A run may take so many times as long as the longest that is asked for: not every one is predicted."""


def open_worker(name: str, order: dict[str, Any], folder: Path) -> Worker:
    """Begin the process of an arm, whose log goes to `folder`."""
    return Worker(name, order, folder, "sage_eval.probes.serving.worker")


class Engines:
    """Arms by name. `start` begins an arm's process, as `open_worker` does; their logs go to `folder`."""

    def __init__(
        self,
        plan: Plan,
        into: Record,
        folder: Path,
        say: Say,
        budget: Budget,
        start: Callable[..., Worker] = open_worker,
    ) -> None:
        self._plan, self._record, self._folder, self._say, self._begin = plan, into, folder, say, start
        self._budget = budget
        self._vocabulary = vocabulary(into.model)
        self._workers: dict[str, Worker] = {}
        self._covered: dict[str, dict[str, float]] = {}
        """Of earlier calls: what an engine counts begins with its start."""
        self._free = _free_bytes()
        """Of the device, before any engine is up; None without one."""

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def start(self, arms: Sequence[BenchArm]) -> None:
        """Open the engines of `arms` at the same time, and run each once so that its kernels are compiled."""
        shared = self._plan.engine_arguments()
        for arm in arms:
            known = self._record.arms.get(arm.name)
            self._covered[arm.name] = known.coverage if known else {}
            self._record.arms[arm.name] = ArmRecord(arguments=arm.arguments, coverage=self._covered[arm.name])
            order = {"model": str(self._plan.model), "arguments": {**shared, **arm.arguments}}
            self._workers[arm.name] = self._begin(arm.name, order, self._folder)
        self._say(f"starting {', '.join(arm.name for arm in arms)}")
        for arm in arms:
            self.guarded(arm.name, self._introduce)
        for arm in arms:
            self.guarded(arm.name, self._warm_up)
        self._note_device_memory()

    def only(self, names: Sequence[str]) -> None:
        """End every engine but those of `names`."""
        for name in [name for name in self._workers if name not in names]:
            self._workers[name].dismiss()
            self.end(name)

    def end(self, name: str) -> None:
        """End an arm's engine, which is not used any more."""
        self._workers.pop(name).close()

    def close(self) -> None:
        """End them all."""
        for name in list(self._workers):
            self.end(name)

    def dismiss(self) -> None:
        """Let them all end by themselves; `close` then waits for them."""
        for worker in self._workers.values():
            worker.dismiss()

    def guarded(self, name: str, action: Callable[[Worker], object]) -> None:
        """Do `action` with an arm's worker; an arm that fails is noted and left out from then on, the others go on."""
        if name not in self._workers:
            return
        try:
            action(self._workers[name])
        except SageEvalError as error:
            self._say(str(error))
            self._record.arms[name].error = str(error)
            self.end(name)

    def ask(self, worker: Worker, do: str, **command: Any) -> dict[str, Any]:
        """The answer to a command; `EngineError` where it takes longer than --longest and the rest of --total allow."""
        within = ALLOWANCE + min(SLOWER * self._plan.longest, max(0.0, self._budget.left()))
        return worker.ask(do, within=within, vocabulary=self._vocabulary, **command)

    def note_coverage(self, worker: Worker) -> None:
        """Put into the record which kernels computed how many tokens so far."""
        earlier, now = self._covered[worker.name], self.ask(worker, "coverage")["coverage"]
        totals = {kernel: round(earlier.get(kernel, 0) + now.get(kernel, 0)) for kernel in {*earlier, *now}}
        self._record.arms[worker.name].coverage = dict(sorted(totals.items()))

    def _introduce(self, worker: Worker) -> None:
        reply, seconds = worker.ready()
        self._record.arms[worker.name] = self._record.arms[worker.name].model_copy(
            update={"engine": reply["engine"], "memory": reply["memory"], "start_seconds": round(seconds, 1)}
        )
        self._say(f"{worker.name} is up after {seconds:.0f} s")

    def _warm_up(self, worker: Worker) -> None:
        """Every path once: a short prompt, one of several chunks (new tokens after a prefix), a few steps of decode."""
        plan = self._plan
        chunk = max(1024, int(self._record.arms[worker.name].engine.get("chunked_prefill_size") or 0))
        lengths = plan.lengths or (plan.decode_context,)
        for length in sorted({min(*lengths, chunk), min(max(lengths), chunk * 5 // 2)}):
            self.ask(worker, "run", seed=0, requests=1, length=length, new_tokens=1)
        if plan.batches:
            self.ask(worker, "run", seed=0, requests=1, length=plan.decode_context, new_tokens=plan.decode_steps)

    def _note_device_memory(self) -> None:
        """What the device had before, and what an engine holds of it beyond PyTorch's count: context and libraries.

        The driver tells of no process by itself where that process is in a container, so the engines share what all
        of them hold.
        """
        free = _free_bytes()
        if free is None or self._free is None:
            return
        reserved: list[int] = []
        for name in list(self._workers):
            self.guarded(name, lambda worker: reserved.append(self.ask(worker, "memory")["memory"].get("reserved", 0)))
        beyond = max(0, self._free - free - sum(reserved)) // max(1, len(reserved))
        for name in self._workers:
            self._record.arms[name].memory |= {"device_free": self._free, "beyond_torch": beyond}


def _free_bytes() -> int | None:
    free = (gpu.state() or {}).get("free_mib")
    return None if free is None else free << 20
