"""The measurement: engines side by side where they fit, taking turns round by round, within a budget of seconds."""

import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sage_eval.errors import SageEvalError
from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.budget import Budget
from sage_eval.probes.client import Worker
from sage_eval.probes.crew import Say
from sage_eval.probes.serving import record
from sage_eval.probes.serving.engines import Engines, open_worker
from sage_eval.probes.serving.plan import Plan
from sage_eval.probes.serving.record import Block, Cell, Profile, Record, Result
from sage_eval.probes.serving.scaling import predict, predict_mix

MAX_ROUNDS = 200
PROFILE_COST = 4.0
"""A profile takes so many times as long as its run, roughly: it may be repeated without graphs, and traces are read."""
WARM_SHARE = 0.2
"""Of a cell's seconds: where every arm's first run of one prompt takes longer, it is not thrown away as a warm-up.

One arm alone that takes so long compiles a kernel. Of many requests at once the first run always is thrown away: they
come in batches of many sizes, and a kernel that one arm compiles for some of them hides in the time of all.
"""

WARM_UP, PROFILED = -1, -2
"""Rounds of their own, so that no timed one finds its prompts in a prefix cache."""


class Measurement:
    """Works through a plan and keeps `path` up to date. `say` is told of progress; `start` begins an arm's process."""

    def __init__(
        self,
        plan: Plan,
        into: Record,
        path: Path,
        say: Say,
        start: Callable[..., Worker] = open_worker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.record, self.path, self.say = plan, into, path, say
        self._budget = Budget(plan.total, clock)
        self._engines = Engines(plan, into, path.parent / "logs", say, self._budget, start)

    def run(self) -> None:
        """Measure what is not in the record yet. Engines are closed however this ends."""
        groups = self.plan.groups(self.record.model)
        try:
            for place, group in enumerate(groups):
                later = {arm.name for others in groups[place + 1 :] for arm in others}
                if not self._run_group(group, last=[arm.name for arm in group if arm.name not in later]):
                    break
            self._engines.dismiss()
        finally:
            self._engines.close()

    def _run_group(self, group: list[BenchArm], last: list[str]) -> bool:
        """Measure what these arms lack, then profile those that are in no later group; False where the time is over.

        In this order, as an engine that was profiled is never timed again.
        """
        names = [arm.name for arm in group]
        self._engines.dismiss(keep=names)
        self._engines.only(names)
        timed = any(self._todo(cell, names) for cell in self.plan.cells())
        needed = group if timed else [arm for arm in group if arm.name in last and self._unprofiled(arm.name)]
        if not needed:
            return True
        if not self._start(needed):
            return False
        for cell in self.plan.cells():
            present = [name for name in names if name in self._engines]
            todo = self._todo(cell, present)
            if not todo:
                if not all(self.record.done(name, cell) for name in present):
                    self.say(f"{cell.name}: left out, one run would take longer than {self.plan.longest:g} s")
                continue
            # The baseline runs once more beside an arm that is new: only what ran in turn can be paired.
            beside = {self.plan.baseline} if not self._too_long(self.plan.baseline, cell) else set()
            arms = [name for name in present if name in {*todo, *beside}]
            if not self._fits(cell, arms):
                self.say(f"{cell.name} and what follows does not fit into the {self.plan.total:g} s: repeat to go on")
                # Nothing is timed any more, so that what time is left can show where it goes.
                for name in present:
                    self._profile(name)
                return False
            self._measure(cell, arms)
        record.write(self.path, self.record)
        return all(map(self._profile, last))

    def _todo(self, cell: Cell, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self.record.done(name, cell) and not self._too_long(name, cell)]

    def _start(self, arms: Sequence[BenchArm]) -> bool:
        """Start those of `arms` that are not up; False where the time is over."""
        if not self._budget.fits(0.0):
            self.say(f"the {self.plan.total:g} s are over: repeat to go on")
            return False
        new = [arm for arm in arms if arm.name not in self._engines]
        if new:
            self._engines.start(new)
        failed = self.record.arms[self.plan.baseline].error
        if failed and self.plan.baseline in {arm.name for arm in new}:
            record.write(self.path, self.record)
            raise SageEvalError(f"the baseline did not come up: {failed}")
        return True

    def _measure(self, cell: Cell, arms: list[str]) -> None:
        """Fill one block. `arms` take turns, and each round begins with the next of them."""
        before = gpu.state()
        results: dict[str, Result] = {}
        started = self._budget.now()
        for name in arms:
            self._engines.guarded(name, lambda worker: results.update({worker.name: self._first(worker, cell)}))
        firsts = [result.warm_up or 0.0 for result in results.values()]
        if cell.kind == "prefill" and firsts and min(firsts) > WARM_SHARE * self.plan.seconds > 0:
            results = {
                name: r.model_copy(update={"seconds": [r.warm_up], "warm_up": None}) for name, r in results.items()
            }
        rounds, longest = 0, len(firsts) * min(firsts, default=0.0)
        while rounds < MAX_ROUNDS and self.plan.seconds:
            begun = self._budget.now()
            names = [name for name in arms if name in results and name in self._engines]
            # Always one round of what has no timed run yet.
            due = [name for name in names if len(results[name].seconds) <= rounds]
            late = begun - started + longest > self.plan.seconds or not self._budget.fits(longest)
            if not names or (rounds and late):
                break
            for name in _rotated(due, rounds):
                self._engines.guarded(name, partial(self._round, cell=cell, round_=rounds, into=results))
            longest, rounds = max(longest, self._budget.now() - begun), rounds + 1
        if not self.plan.seconds:  # memory alone was asked for
            results = {name: Result(seconds=[r.warm_up or 0.0], memory=r.memory) for name, r in results.items()}
        results = {name: result for name, result in results.items() if result.seconds}
        if not results:
            return
        block = Block(
            cell=cell,
            **self.plan.work(cell),
            results=results,
            skipped=self._skipped(cell),
            interleaved=len(results) > 1,
            gpu_before=before,
            gpu_after=gpu.state(),
        )
        self.record.blocks.append(block)
        for name in arms:
            self._engines.guarded(name, self._engines.note_coverage)
        record.write(self.path, self.record)
        best = ", ".join(f"{name} {min(result.seconds) * 1e3:,.1f} ms" for name, result in results.items())
        self.say(f"{cell.name}: {best} ({rounds} rounds, {self._budget.now() - started:.1f} s)")

    def _round(self, worker: Worker, cell: Cell, round_: int, into: dict[str, Result]) -> None:
        into[worker.name].seconds.append(self._time(worker, cell, round_))

    def _first(self, worker: Worker, cell: Cell) -> Result:
        """The first run of a cell, with the memory it took."""
        rest = self._engines.ask(worker, "memory")["memory"]
        seconds = self._time(worker, cell, WARM_UP)
        peak = self._engines.ask(worker, "memory")["memory"]
        memory = {f"before_{name}": rest[name] for name in ("allocated", "reserved", "rss") if name in rest}
        memory |= {name: value for name, value in peak.items() if name.startswith("peak_")}
        return Result(seconds=[], warm_up=seconds, memory=memory)

    def _time(self, worker: Worker, cell: Cell, round_: int) -> float:
        """Seconds of one run. All arms get the same prompts in the same round."""
        command = self.plan.command(cell) | {"seed": self._seed(cell, round_)}
        return float(self._engines.ask(worker, "run", **command)["seconds"])

    def _seed(self, cell: Cell, round_: int) -> int:
        return zlib.crc32(f"{self.plan.seed} {cell.name} {round_}".encode())

    def _profile(self, name: str) -> bool:
        """Profile the cells of an arm whose timing is over; False where the time is."""
        try:
            for cell, seconds in self._unprofiled(name).items():
                if name not in self._engines:
                    break
                if not self._budget.fits(PROFILE_COST * seconds):
                    self.say(f"the profile of {cell.name} does not fit into the {self.plan.total:g} s: repeat to go on")
                    return False
                self._engines.guarded(name, partial(self._profile_cell, cell=cell))
            return True
        finally:
            record.write(self.path, self.record)

    def _profile_cell(self, worker: Worker, cell: Cell) -> None:
        """Add a profile to the record. An engine that fails meanwhile is ended; its arm has not failed: it is timed."""
        command = self.plan.profiled_command(cell) | {"seed": self._seed(cell, PROFILED), "kind": cell.kind}
        try:
            found = self._engines.ask(worker, "profile", **command)["profile"]
        except SageEvalError as error:
            self._engines.end(worker.name)
            found = {"error": str(error)}
        profile = Profile(arm=worker.name, cell=cell, **found)
        self.record.profiles.append(profile)
        self.say(f"{cell.name}: {worker.name} profiled" + (f" in vain: {profile.error}" if profile.error else ""))

    def _unprofiled(self, name: str) -> dict[Cell, float]:
        """The measured cells of an arm that lack a profile and are not too long for one, with a run's seconds."""
        found = {
            cell: self.record.typical(name, cell.kind)[cell.size] * (self.plan.profiled_command(cell)["new_tokens"])
            for cell in self.plan.cells()
            if cell.kind in ("prefill", "decode") and self.record.done(name, cell)
        }
        return {
            cell: seconds
            for cell, seconds in found.items()
            if seconds <= self.plan.profile and not self.record.profiled(name, cell)
        }

    def _predicted(self, name: str, cell: Cell) -> float | None:
        prefill = self.record.typical(name, "prefill")
        match cell.kind:
            case "prefill":
                return predict(prefill, cell.size)
            case "mixed":
                return predict_mix(self.plan.sizes(cell), prefill, self.record.typical(name, "decode"))
        return None

    def _too_long(self, name: str, cell: Cell) -> bool:
        """Whether one run would take longer than `longest` allows."""
        return (self._predicted(name, cell) or 0.0) > self.plan.longest

    def _skipped(self, cell: Cell) -> dict[str, str]:
        return {
            arm.name: f"one run would take about {self._predicted(arm.name, cell):.0f} s"
            for arm in self.plan.arms
            if arm.name in self._engines and not self.record.done(arm.name, cell) and self._too_long(arm.name, cell)
        }

    def _fits(self, cell: Cell, names: Sequence[str]) -> bool:
        expected = sum(self._predicted(name, cell) or 0.0 for name in names)
        return self._budget.fits(expected)


def _rotated(names: list[str], by: int) -> list[str]:
    shift = by % len(names) if names else 0
    return names[shift:] + names[:shift]
