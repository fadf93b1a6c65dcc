"""The measurement: servers side by side where they fit, each sent the same requests, the order changing each time."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from sage_eval.engine.options import ArmOptions
from sage_eval.errors import EngineError, SageEvalError
from sage_eval.probes import gpu
from sage_eval.probes.arms import BenchArm, role
from sage_eval.probes.rate import record
from sage_eval.probes.rate.client import Generator, Server
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.plan import Plan
from sage_eval.probes.rate.record import ArmRecord, Block, Record, Result, label
from sage_eval.probes.rate.words import write_words
from sage_eval.probes.shape import vocabulary

Say = Callable[[str], None]


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
    ) -> None:
        self.plan, self.record, self.path, self.say = plan, into, path, say
        self._start_server, self._start_generator = start, generator
        self._end = time.monotonic() + plan.total if plan.total else float("inf")
        self._vocabulary = vocabulary(into.model)
        self._servers: dict[str, Server] = {}
        self._generator: Generator | None = None
        self._covered: dict[str, dict[str, float]] = {}
        """Of earlier calls: what a server counts begins with its start."""

    def run(self) -> None:
        """Measure what is not in the record yet. All processes are ended however this ends."""
        try:
            with tempfile.TemporaryDirectory(prefix="sage-eval-rate-") as scratch:
                self._run_groups(Path(scratch))
        finally:
            if self.record.arms:
                record.write(self.path, self.record)

    def _run_groups(self, scratch: Path) -> None:
        try:
            for group in self.plan.groups(self.record.model):
                if not self._run_group(group, scratch):
                    break
        finally:
            for name in list(self._servers):
                self._close(name)
            if self._generator:
                self._generator.close()

    def _run_group(self, group: list[BenchArm], scratch: Path) -> bool:
        """Measure what these arms lack; False where the time is over."""
        names = [arm.name for arm in group]
        for name in [name for name in self._servers if name not in names]:
            self._close(name)
        if not any(self._todo(*cell, names) for cell in self.plan.cells()):
            return True
        if self._over():
            return False
        self._start([arm for arm in group if arm.name not in self._servers], scratch)
        for repeat, rate in self.plan.cells():
            present = [name for name in names if name in self._servers]
            todo = self._todo(repeat, rate, present)
            if not todo:
                continue
            # The baseline runs once more beside an arm that is new: only what ran in turn can be paired.
            arms = [name for name in present if name in {*todo, self.plan.baseline}]
            load = self.plan.load(rate, repeat, self._vocabulary)
            if self._over(len(arms) * load.arrivals()[-1]):
                return False
            self._measure(load, repeat, arms)
        return True

    def _over(self, coming: float = 0.0) -> bool:
        """Whether the time is, or would be in `coming` seconds."""
        if time.monotonic() + coming < self._end:
            return False
        self.say(f"the {self.plan.total:g} s are over, or too short for what follows: repeat to go on")
        return True

    def _todo(self, repeat: int, rate: float | None, names: Sequence[str]) -> list[str]:
        return [name for name in names if not self.record.done(name, rate, repeat)]

    def _start(self, arms: Sequence[BenchArm], scratch: Path) -> None:
        """Start the servers of `arms` at the same time, and the load generator with the first of them."""
        logs, words = self.path.parent / "logs", scratch / "words"
        if not words.exists():
            write_words(self._vocabulary, words)
        shared = self.plan.engine_arguments() | {"tokenizer_path": str(words)}
        for arm in arms:
            order = {"model": str(self.plan.model), "arguments": {**shared, **arm.arguments}}
            self._servers[arm.name] = self._start_server(arm.name, order, logs)
        self._generator = self._generator or self._start_generator(logs, words, scratch)
        self.say(f"starting {', '.join(arm.name for arm in arms)}")
        for arm in arms:
            options = ArmOptions.from_arguments(str(self.plan.model), **shared, **arm.arguments)
            known = self.record.arms.get(arm.name)
            self._covered[arm.name] = known.coverage if known else {}
            self.record.arms[arm.name] = ArmRecord(
                arguments=arm.arguments,
                role="baseline" if arm.name == self.plan.baseline else role(options),
                coverage=self._covered[arm.name],
            )
        self._generator.ready()
        for arm in arms:
            self._guarded(arm.name, self._introduce)
        for arm in arms:
            self._guarded(arm.name, self._warm_up)
        if self.record.arms[self.plan.baseline].error and self.plan.baseline in {arm.name for arm in arms}:
            raise SageEvalError(f"the baseline did not come up: {self.record.arms[self.plan.baseline].error}")

    def _introduce(self, server: Server) -> None:
        reply, seconds = server.ready()
        asked, held = self.plan.engine_arguments()["max_total_tokens"], reply["engine"]["max_total_num_tokens"]
        if asked and held < asked:
            raise EngineError(
                f"arm {server.name}: the KV cache holds {held:,} tokens where {asked:,} were asked for, so fewer "
                "requests would run together than in the other arms: lower --running, or say --resident 1"
            )
        self.record.arms[server.name] = self.record.arms[server.name].model_copy(
            update={**reply, "start_seconds": round(seconds, 1)}
        )
        self.say(f"{server.name} is up after {seconds:.0f} s")

    def _warm_up(self, server: Server) -> None:
        self._send(self.plan.warm_up(self._vocabulary), server)

    def _send(self, load: Load, server: Server) -> Result:
        assert self._generator
        try:
            return self._generator.run(load, server.url)
        except EngineError as error:
            raise server.explain(error) from None

    def _measure(self, load: Load, repeat: int, arms: list[str]) -> None:
        """Fill one block. The arm that begins is another one at the next rate, and at this rate in the next repeat."""
        before, started = gpu.state(), time.monotonic()
        results: dict[str, Result] = {}

        def send(server: Server) -> None:
            results[server.name] = self._send(load, server)

        shift = (repeat + self.plan.rates.index(load.rate)) % len(arms)
        for name in arms[shift:] + arms[:shift]:
            self._guarded(name, send)
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
            self._guarded(name, self._note_coverage)
        record.write(self.path, self.record)
        found = ", ".join(f"{name} {median(result.ttft) * 1e3:,.0f} ms" for name, result in results.items())
        self.say(f"{label(load.rate)}, repeat {repeat + 1}: TTFT {found} ({time.monotonic() - started:.1f} s)")

    def _note_coverage(self, server: Server) -> None:
        earlier, now = self._covered[server.name], server.coverage()
        totals = {kernel: round(earlier.get(kernel, 0) + now.get(kernel, 0)) for kernel in {*earlier, *now}}
        self.record.arms[server.name].coverage = dict(sorted(totals.items()))

    def _guarded(self, name: str, action: Callable[[Server], object]) -> None:
        """Do `action` with an arm's server; an arm that fails is noted and left out from then on, the others go on."""
        if name not in self._servers:
            return
        try:
            action(self._servers[name])
        except SageEvalError as error:
            self.say(str(error))
            self.record.arms[name].error = str(error)
            self._close(name)

    def _close(self, name: str) -> None:
        self._servers.pop(name).close()
