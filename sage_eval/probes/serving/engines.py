"""The engines that are up, one process an arm: started, warmed up, asked, ended; what they say goes to the record."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.budget import Budget
from sage_eval.probes.client import Worker
from sage_eval.probes.crew import Crew, Say
from sage_eval.probes.serving.plan import Plan
from sage_eval.probes.serving.record import ArmRecord, Record
from sage_eval.probes.shape import vocabulary

ALLOWANCE = 600.0
"""Seconds in which any command must be answered: kernels are compiled and traces written in them, beside the run."""
SLOWER = 10.0
"""A run may take so many times as long as the longest that is asked for: not every one is predicted."""


def open_worker(name: str, order: dict[str, Any], folder: Path) -> Worker:
    """Begin the process of an arm, whose log goes to `folder`."""
    return Worker(name, order, folder, "sage_eval.probes.serving.worker")


class Engines(Crew[Worker]):
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
        super().__init__(into.arms, say)
        self._plan, self._record, self._folder, self._open, self._budget = plan, into, folder, start, budget
        self._vocabulary = vocabulary(into.model)
        self._free = _free_bytes()
        """Of the device, before any engine is up; None without one."""

    def start(self, arms: Sequence[BenchArm]) -> None:
        """Open the engines of `arms` at the same time, and run each once so that its kernels are compiled."""
        shared = self._plan.engine_arguments()
        for arm in arms:
            order = {"model": str(self._plan.model), "arguments": {**shared, **arm.arguments}}
            coverage = self._begin(arm.name, self._open(arm.name, order, self._folder))
            self._record.arms[arm.name] = ArmRecord(arguments=arm.arguments, coverage=coverage)
        self._say(f"starting {', '.join(arm.name for arm in arms)}")
        for arm in arms:
            self.guarded(arm.name, self._introduce)
        for arm in arms:
            self.guarded(arm.name, self._warm_up)
        self._note_device_memory()

    def dismiss(self, keep: Sequence[str] = ()) -> None:
        """Let all but those of `keep` end by themselves; `only` and `close` then wait for them."""
        for name, worker in self._workers.items():
            if name not in keep:
                worker.dismiss()

    def ask(self, worker: Worker, do: str, **command: Any) -> dict[str, Any]:
        """The answer to a command; `EngineError` where it takes longer than --longest and the rest of --total allow."""
        within = ALLOWANCE + min(SLOWER * self._plan.longest, max(0.0, self._budget.left()))
        return worker.ask(do, within=within, vocabulary=self._vocabulary, **command)

    def note_coverage(self, worker: Worker) -> None:
        """Put into the record which kernels computed how many tokens so far."""
        self._cover(worker.name, self.ask(worker, "coverage")["coverage"])

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
