"""The measurement: engines side by side where they fit, taking turns round by round, within a budget of seconds."""

import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sage_eval.errors import SageEvalError
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.serving import gpu, record
from sage_eval.probes.serving.client import Worker
from sage_eval.probes.serving.plan import Plan, vocabulary
from sage_eval.probes.serving.record import ArmRecord, Block, Cell, Record, Result
from sage_eval.probes.serving.scaling import predict

MAX_ROUNDS = 200
WARM_SHARE = 0.2
"""Of a cell's seconds: where every arm's first run takes longer, it is not thrown away as a warm-up.

One arm alone that takes so long compiles a kernel.
"""
Say = Callable[[str], None]


class Measurement:
    """Works through a plan and keeps `path` up to date. `say` is told of progress; `start` begins an arm's process."""

    def __init__(
        self,
        plan: Plan,
        into: Record,
        path: Path,
        say: Say,
        start: Callable[..., Worker] = Worker,
    ) -> None:
        self._begin = start
        self.plan, self.record, self.path, self.say = plan, into, path, say
        self._end = time.monotonic() + plan.total if plan.total else float("inf")
        self._vocabulary = vocabulary(into.model)
        self._workers: dict[str, Worker] = {}
        self._covered: dict[str, dict[str, float]] = {}
        """Of earlier calls: what an engine counts begins with its start."""

    def run(self) -> None:
        """Measure what is not in the record yet. Engines are closed however this ends."""
        try:
            for group in self.plan.groups(self.record.model):
                if not self._run_group(group):
                    break
            for worker in self._workers.values():
                worker.dismiss()
        finally:
            for name in list(self._workers):
                self._close(name)

    def _run_group(self, group: list[BenchArm]) -> bool:
        """Measure what these arms lack; False where the time is over."""
        names = [arm.name for arm in group]
        for name in [name for name in self._workers if name not in names]:
            self._workers[name].dismiss()
            self._close(name)
        if not any(self._todo(cell, names) for cell in self.plan.cells()):
            return True
        if time.monotonic() >= self._end:
            self.say(f"the {self.plan.total:g} s are over: repeat to go on")
            return False
        self._start([arm for arm in group if arm.name not in self._workers])
        for cell in self.plan.cells():
            present = [name for name in names if name in self._workers]
            todo = self._todo(cell, present)
            if not todo:
                continue
            # The baseline runs once more beside an arm that is new: only what ran in turn can be paired.
            beside = {self.plan.baseline} if not self._too_long(self.plan.baseline, cell) else set()
            arms = [name for name in present if name in {*todo, *beside}]
            if not self._fits(cell, arms):
                self.say(f"{cell.name} and what follows does not fit into the {self.plan.total:g} s: repeat to go on")
                return False
            self._measure(cell, arms)
        record.write(self.path, self.record)
        return True

    def _todo(self, cell: Cell, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self.record.done(name, cell) and not self._too_long(name, cell)]

    def _start(self, arms: Sequence[BenchArm]) -> None:
        """Open the engines of `arms` at the same time, and run each once so that its kernels are compiled."""
        shared = self.plan.engine_arguments()
        for arm in arms:
            known = self.record.arms.get(arm.name)
            self._covered[arm.name] = known.coverage if known else {}
            self.record.arms[arm.name] = ArmRecord(arguments=arm.arguments, coverage=self._covered[arm.name])
            order = {"model": str(self.plan.model), "arguments": {**shared, **arm.arguments}}
            self._workers[arm.name] = self._begin(arm.name, order, self.path.parent / "logs")
        self.say(f"starting {', '.join(arm.name for arm in arms)}")
        for arm in arms:
            self._guarded(arm.name, self._introduce)
        for arm in arms:
            self._guarded(arm.name, self._warm_up)
        if self.record.arms[self.plan.baseline].error and self.plan.baseline in {arm.name for arm in arms}:
            record.write(self.path, self.record)
            raise SageEvalError(f"the baseline did not come up: {self.record.arms[self.plan.baseline].error}")

    def _introduce(self, worker: Worker) -> None:
        reply, seconds = worker.ready()
        self.record.arms[worker.name] = self.record.arms[worker.name].model_copy(
            update={"engine": reply["engine"], "memory": reply["memory"], "start_seconds": round(seconds, 1)}
        )
        self.say(f"{worker.name} is up after {seconds:.0f} s")

    def _warm_up(self, worker: Worker) -> None:
        """Every path once: a short prompt, one of several chunks (new tokens after a prefix), a few steps of decode."""
        chunk = max(1024, int(self.record.arms[worker.name].engine.get("chunked_prefill_size") or 0))
        lengths = self.plan.lengths or (self.plan.decode_context,)
        for length in sorted({min(*lengths, chunk), min(max(lengths), chunk * 5 // 2)}):
            self._ask(worker, seed=0, requests=1, length=length, new_tokens=1)
        if self.plan.batches:
            self._ask(worker, seed=0, requests=1, length=self.plan.decode_context, new_tokens=self.plan.decode_steps)

    def _measure(self, cell: Cell, arms: list[str]) -> None:
        """Fill one block. `arms` take turns, and each round begins with the next of them."""
        before = gpu.state()
        results: dict[str, Result] = {}
        started = time.monotonic()
        for name in arms:
            self._guarded(name, lambda worker: results.update({worker.name: self._first(worker, cell)}))
        firsts = [result.warm_up or 0.0 for result in results.values()]
        if self.plan.seconds and firsts and min(firsts) > WARM_SHARE * self.plan.seconds:
            results = {
                name: r.model_copy(update={"seconds": [r.warm_up], "warm_up": None}) for name, r in results.items()
            }
        rounds, longest = 0, len(firsts) * min(firsts, default=0.0)
        while rounds < MAX_ROUNDS and self.plan.seconds:
            begun = time.monotonic()
            names = [name for name in arms if name in results and name in self._workers]
            # Always one round of what has no timed run yet.
            due = [name for name in names if len(results[name].seconds) <= rounds]
            late = begun - started + longest > self.plan.seconds or begun + longest > self._end
            if not names or (rounds and late):
                break
            for name in _rotated(due, rounds):
                self._guarded(name, partial(self._round, cell=cell, round_=rounds, into=results))
            longest, rounds = max(longest, time.monotonic() - begun), rounds + 1
        if not self.plan.seconds:  # memory alone was asked for
            results = {name: Result(seconds=[r.warm_up or 0.0], memory=r.memory) for name, r in results.items()}
        results = {name: result for name, result in results.items() if result.seconds}
        if not results:
            return
        block = Block(
            cell=cell,
            requests=self.plan.requests(cell),
            tokens=self.plan.decode_steps - 1 if cell.kind == "decode" else cell.size,
            results=results,
            skipped=self._skipped(cell),
            interleaved=len(results) > 1,
            gpu_before=before,
            gpu_after=gpu.state(),
        )
        self.record.blocks.append(block)
        for name in arms:
            self._guarded(name, self._note_coverage)
        record.write(self.path, self.record)
        best = ", ".join(f"{name} {min(result.seconds) * 1e3:,.1f} ms" for name, result in results.items())
        self.say(f"{cell.name}: {best} ({rounds} rounds, {time.monotonic() - started:.1f} s)")

    def _round(self, worker: Worker, cell: Cell, round_: int, into: dict[str, Result]) -> None:
        into[worker.name].seconds.append(self._time(worker, cell, round_))

    def _first(self, worker: Worker, cell: Cell) -> Result:
        """The first run of a cell, with the memory it took."""
        rest = worker.ask("memory")["memory"]
        seconds = self._time(worker, cell, 0)
        peak = worker.ask("memory")["memory"]
        memory = {f"before_{name}": rest[name] for name in ("allocated", "reserved", "rss") if name in rest}
        memory |= {name: value for name, value in peak.items() if name.startswith("peak_")}
        return Result(seconds=[], warm_up=seconds, memory=memory)

    def _time(self, worker: Worker, cell: Cell, round_: int) -> float:
        """Seconds of one run. All arms get the same prompts in the same round."""
        seed = zlib.crc32(f"{self.plan.seed} {cell.name} {round_}".encode())
        return self._ask(worker, seed=seed, **self.plan.command(cell))

    def _ask(self, worker: Worker, **command: Any) -> float:
        return float(worker.ask("run", vocabulary=self._vocabulary, **command)["seconds"])

    def _note_coverage(self, worker: Worker) -> None:
        earlier, now = self._covered[worker.name], worker.ask("coverage")["coverage"]
        totals = {kernel: round(earlier.get(kernel, 0) + now.get(kernel, 0)) for kernel in {*earlier, *now}}
        self.record.arms[worker.name].coverage = dict(sorted(totals.items()))

    def _guarded(self, name: str, action: Callable[[Worker], object]) -> None:
        """Do `action` with an arm's worker; an arm that fails is noted and left out from then on, the others go on."""
        if name not in self._workers:
            return
        try:
            action(self._workers[name])
        except SageEvalError as error:
            self.say(str(error))
            self.record.arms[name].error = str(error)
            self._close(name)

    def _close(self, name: str) -> None:
        self._workers.pop(name).close()

    def _predicted(self, name: str, cell: Cell) -> float | None:
        return predict(self.record.typical(name, cell.kind), cell.size) if cell.kind == "prefill" else None

    def _too_long(self, name: str, cell: Cell) -> bool:
        """Whether one run would take longer than `longest` allows."""
        return (self._predicted(name, cell) or 0.0) > self.plan.longest

    def _skipped(self, cell: Cell) -> dict[str, str]:
        return {
            name: f"one run would take about {self._predicted(name, cell):.0f} s"
            for name in self._workers
            if not self.record.done(name, cell) and self._too_long(name, cell)
        }

    def _fits(self, cell: Cell, names: Sequence[str]) -> bool:
        expected = sum(self._predicted(name, cell) or 0.0 for name in names)
        return time.monotonic() + expected < self._end


def _rotated(names: list[str], by: int) -> list[str]:
    shift = by % len(names) if names else 0
    return names[shift:] + names[:shift]
