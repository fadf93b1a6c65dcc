"""The measurement: servers side by side where they fit, each sent the same requests, the order changing each time."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.budget import Budget
from sage_eval.probes.crew import Say
from sage_eval.probes.rate import record
from sage_eval.probes.rate.client import Generator, Server
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.plan import Plan
from sage_eval.probes.rate.record import Block, Record, Result, label
from sage_eval.probes.rate.servers import Servers
from sage_eval.probes.shape import vocabulary


class Measurement:
    """Works through a plan and keeps `path` up to date. `say` is told of progress; `start` begins an arm's server."""

    def __init__(
        self,
        plan: Plan,
        into: Record,
        path: Path,
        say: Say,
        start: Callable[..., Server] = Server,
        generator: Callable[..., Generator] = Generator,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.record, self.path, self.say = plan, into, path, say
        self._budget = Budget(plan.total, clock)
        self._vocabulary = vocabulary(into.model)
        self._servers = Servers(plan, into, path.parent / "logs", say, start, generator)

    def run(self) -> None:
        """Measure what is not in the record yet. All processes are ended however this ends."""
        try:
            for group in self.plan.groups(self.record.model):
                if not self._run_group(group):
                    break
        finally:
            self._servers.close()
            if self.record.arms:
                record.write(self.path, self.record)

    def _run_group(self, group: list[BenchArm]) -> bool:
        """Measure what these arms lack; False where the time is over."""
        names = [arm.name for arm in group]
        self._servers.only(names)
        if not any(self._todo(*cell, names) for cell in self.plan.cells()):
            return True
        if self._over():
            return False
        self._servers.start([arm for arm in group if arm.name not in self._servers])
        for repeat, rate in self.plan.cells():
            present = [name for name in names if name in self._servers]
            todo = self._todo(repeat, rate, present)
            if not todo:
                continue
            # The baseline runs once more beside an arm that is new: only what ran in turn can be paired.
            arms = [name for name in present if name in {*todo, self.plan.baseline}]
            load = self.plan.load(rate, repeat, self._vocabulary)
            if self._over(self._servers.expected(load, arms)):
                return False
            self._servers.rehearse(rate, arms)
            self._measure(load, repeat, arms)
        return True

    def _over(self, coming: float = 0.0) -> bool:
        """Whether the time is, or would be in `coming` seconds."""
        if self._budget.fits(coming):
            return False
        self.say(f"the {self.plan.total:g} s are over, or too short for what follows: repeat to go on")
        return True

    def _todo(self, repeat: int, rate: float | None, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self.record.done(name, rate, repeat)]

    def _measure(self, load: Load, repeat: int, arms: list[str]) -> None:
        """Fill one block. The arm that begins is another one at the next rate, and at this rate in the next repeat."""
        before, started = gpu.state(), self._budget.now()
        results: dict[str, Result] = {}

        def send(server: Server) -> None:
            results[server.name] = self._servers.send(load, server)

        shift = (repeat + self.plan.rates.index(load.rate)) % len(arms)
        for name in arms[shift:] + arms[:shift]:
            self._servers.guarded(name, send)
        if not results:
            return
        *arrivals, sending = load.arrivals()
        self.record.blocks.append(
            Block(
                rate=load.rate,
                repeat=repeat,
                seed=load.seed,
                arrivals=[round(moment, 6) for moment in arrivals],
                sending=round(sending, 6),
                results=results,
                interleaved=len(results) > 1,
                gpu_before=before,
                gpu_after=gpu.state(),
            )
        )
        for name in arms:
            self._servers.guarded(name, self._servers.note_coverage)
        record.write(self.path, self.record)
        found = ", ".join(f"{name} {median(result.ttft) * 1e3:,.0f} ms" for name, result in results.items())
        self.say(f"{label(load.rate)}, repeat {repeat + 1}: TTFT {found} ({self._budget.now() - started:.1f} s)")
