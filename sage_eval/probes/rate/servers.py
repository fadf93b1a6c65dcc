"""The servers that are up, one an arm, and the load generator: started, warmed up, sent requests, ended."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sage_eval.engine.options import ArmOptions
from sage_eval.errors import EngineError, SageEvalError
from sage_eval.probes.arms import BenchArm, role
from sage_eval.probes.crew import Crew, Say
from sage_eval.probes.rate.client import ALLOWANCE, Generator, Server, UnansweredError
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.plan import Plan
from sage_eval.probes.rate.record import ArmRecord, Record, Result
from sage_eval.probes.rate.words import write_words
from sage_eval.probes.shape import vocabulary

SLOWER = 3.0
"""A run may take so many times as long as expected, and `ALLOWANCE`: a server may be slower than it ever was."""


class Servers(Crew[Server]):
    """Arms by name. `start` begins an arm's server, `generator` the load generator; their logs go to `folder`."""

    def __init__(
        self,
        plan: Plan,
        into: Record,
        folder: Path,
        say: Say,
        start: Callable[..., Server] = Server,
        generator: Callable[..., Generator] = Generator,
    ) -> None:
        super().__init__(into.arms, say)
        self._plan, self._record, self._folder = plan, into, folder
        self._open, self._open_generator = start, generator
        self._generator: Generator | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="sage-eval-rate-")
        self._vocabulary = vocabulary(into.model)
        self._rehearsed: dict[str, set[float | None]] = {}
        """The rates of which an arm's server has had requests."""
        self._speed: dict[str, float] = {}
        """The most requests a second that an arm has answered in a run."""

    def start(self, arms: Sequence[BenchArm]) -> None:
        """Start the servers of `arms` at the same time, the load generator with the first, and warm them up.

        Raises `SageEvalError` where the generator or the baseline does not come up; other arms are left out.
        """
        words = self._words()
        if not words.exists():
            write_words(self._vocabulary, words)
        shared = self._plan.engine_arguments() | {"tokenizer_path": str(words)}
        for arm in arms:
            order = {"model": str(self._plan.model), "arguments": {**shared, **arm.arguments}}
            coverage = self._begin(arm.name, self._open(arm.name, order, self._folder))
            options = ArmOptions.from_arguments(str(self._plan.model), **shared, **arm.arguments)
            self._record.arms[arm.name] = ArmRecord(
                arguments=arm.arguments,
                role="baseline" if arm.name == self._plan.baseline else role(options),
                coverage=coverage,
            )
            self._rehearsed[arm.name] = set()
        self._say(f"starting {', '.join(arm.name for arm in arms)}")
        self._ready_generator()  # which takes its time while the servers take theirs
        for arm in arms:
            self.guarded(arm.name, self._introduce)
        for arm in arms:
            self.guarded(arm.name, self._warm_up)
        failed = self._record.arms[self._plan.baseline].error
        if failed and self._plan.baseline in {arm.name for arm in arms}:
            raise SageEvalError(f"the baseline did not come up: {failed}")

    def close(self) -> None:
        """End them all, and the generator. Nothing can be started afterwards."""
        super().close()
        self._end_generator()
        self._scratch.cleanup()

    def rehearse(self, rate: float | None, names: Sequence[str]) -> None:
        """Send those of `names` that have not been sent any at this rate the requests of a rehearsal."""
        for name in names:
            self.guarded(name, lambda server: self._rehearse(server, rate))

    def send(self, load: Load, server: Server) -> Result:
        """The answers to `load`. Raises `EngineError` for requests that fail, `GeneratorError` for the generator."""
        generator = self._ready_generator()
        try:
            result = generator.run(load, server.url, ALLOWANCE + SLOWER * self._seconds(load, server.name))
        except EngineError as error:
            if isinstance(error, UnansweredError):
                self._end_generator()  # its late answer must not be taken for that of the next run
            raise server.explain(error) from None
        self._speed[server.name] = max(self._speed.get(server.name, 0.0), load.requests / result.seconds)
        return result

    def expected(self, load: Load, names: Sequence[str]) -> float:
        """Seconds that the runs of `names` will about take, rehearsals included."""
        seconds = 0.0
        for name in names:
            rehearsal = None if load.rate in self._rehearsed[name] else self._rehearsal(load.rate)
            for each in filter(None, (rehearsal, load)):
                seconds += self._seconds(each, name)
        return seconds

    def note_coverage(self, server: Server) -> None:
        """Put into the record which kernels computed how many tokens so far."""
        self._cover(server.name, server.coverage())

    def _seconds(self, load: Load, name: str) -> float:
        """A run ends after its last gap, or when a server that is as fast as it ever was has answered everything."""
        return max(load.arrivals()[-1], load.requests / self._speed.get(name, float("inf")))

    def _words(self) -> Path:
        return Path(self._scratch.name) / "words"

    def _ready_generator(self) -> Generator:
        """The one that is up, or else a new one."""
        if not self._generator:
            self._generator = self._open_generator(self._folder, self._words(), Path(self._scratch.name))
            self._generator.ready()
        return self._generator

    def _end_generator(self) -> None:
        if self._generator:
            self._generator.close()
            self._generator = None

    def _introduce(self, server: Server) -> None:
        reply, seconds = server.ready()
        asked, held = self._plan.engine_arguments()["max_total_tokens"], reply["engine"]["max_total_num_tokens"]
        if asked and held < asked:
            raise EngineError(
                f"arm {server.name}: the KV cache holds {held:,} tokens where {asked:,} were asked for, so fewer "
                "requests would run together than in the other arms: lower --running, or say --resident 1"
            )
        self._record.arms[server.name] = self._record.arms[server.name].model_copy(
            update={**reply, "start_seconds": round(seconds, 1)}
        )
        self._say(f"{server.name} is up after {seconds:.0f} s")

    def _warm_up(self, server: Server) -> None:
        self.send(self._plan.warm_up(self._vocabulary), server)
        server.freeze_gc()

    def _rehearse(self, server: Server, rate: float | None) -> None:
        if rate in self._rehearsed[server.name]:
            return
        if load := self._rehearsal(rate):
            self.send(load, server)
        self._rehearsed[server.name].add(rate)

    def _rehearsal(self, rate: float | None) -> Load | None:
        return self._plan.rehearse(rate, self._vocabulary)
