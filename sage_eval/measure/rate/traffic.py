"""The requests that the arms' servers get: one load generator for all, and what is known of the servers' speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from sage_eval.arms.turns import SharedError
from sage_eval.arms.worker import Worker, last_line
from sage_eval.errors import EngineError, SageEvalError
from sage_eval.measure.rate.plan import Load, RatePlan, label


def write_words(vocabulary: int, folder: Path) -> Path:
    """Write such a tokenizer for ids below `vocabulary` into `folder`, which is returned."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    # SGLang's server warms up with an English sentence, which must be some token.
    words = WordLevel({f"t{token}": token for token in range(vocabulary)}, unk_token="t0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
    return folder


ALLOWANCE = 600.0
"""Extra seconds per run, for kernel compilation."""
SLOWER = 3.0
"""A run may take so many times as long as expected, and `ALLOWANCE`: a server may be slower than it ever was."""


class Generator(Worker):
    """The load generator's process. If it ends, a shared dependency has failed, not an arm."""

    def died(self) -> SageEvalError:
        """Why it has ended, as far as its log tells."""
        return self.failed(f"ended: {last_line(self.log)}")

    def failed(self, how: str) -> SharedError:
        """What to raise for a failure of its own."""
        return SharedError(f"SGLang's load generator {how} (its log: {self.log}): repeat the command to go on")


class Traffic:
    """A context manager that ends the load generator, an object of `target`; logs go to `folder`."""

    def __init__(self, plan: RatePlan, target: str, words: Path, folder: Path, *, flush: bool = False) -> None:
        self._plan, self._target, self._words, self._folder = plan, target, words, folder
        self._flush = flush
        self._generator: Generator | None = None
        self._ready = False
        self._speed: dict[str, float] = {}
        """The most requests per second that an arm has answered in a run."""
        self._rehearsed: dict[str, set[float | None]] = {}
        """The rates at which an arm's server has had requests."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin(self) -> Generator:
        """The load generator; it is started in the background where there is none."""
        if not self._generator:
            self._generator = Generator("bench_serving", self._target, {"words": str(self._words)}, self._folder)
            self._ready = False
        return self._generator

    def warm_up(self, server: Worker) -> None:
        """Have a new server do once what it will do again, and leave what it holds then out of garbage collection."""
        self._rehearsed[server.name] = set()
        self.send(self._plan.warm_up(), server)
        server.ask("freeze_gc")

    def rehearse(self, rate: float | None, server: Worker) -> None:
        """Send a server that has had no requests at this rate those of a rehearsal."""
        if rate not in self._rehearsed[server.name]:
            if load := self._plan.rehearse(rate):
                self.send(load, server)
            self._rehearsed[server.name].add(rate)

    def send(self, load: Load, server: Worker) -> dict[str, Any]:
        """Fields of a row. Raises `EngineError` for requests that fail, `SharedError` for a generator that does."""
        generator = self._up()
        plan, within = self._plan, ALLOWANCE + SLOWER * self._seconds(load, server.name)
        order: dict[str, Any] = {
            "url": server.ask("address"), "rate": load.rate, "requests": load.requests, "seed": load.seed,
            "input_tokens": plan.input_tokens, "output_tokens": plan.output_tokens, "flush": self._flush,
        }  # fmt: skip
        try:
            reply: dict[str, Any] = generator.ask("send", within=within, **order)
        except EngineError:
            self._end()  # its late answer must not be taken for that of the next run
            late = f"were not answered within {within:,.0f} s: where the server is only slow, send it less"
            raise _explained(server, f"{load.requests} requests, {label(load.rate)}, {late}") from None
        if "failed" in reply:
            if reply["own"]:
                raise generator.failed(f"failed: {reply['failed']}")
            raise _explained(server, f"{label(load.rate)}: {reply['failed']}")
        self._speed[server.name] = max(self._speed.get(server.name, 0.0), load.requests / reply["seconds"])
        return reply

    def expected(self, load: Load, names: Sequence[str]) -> float:
        """Seconds that the runs of `names` will about take, rehearsals included."""
        seconds = 0.0
        for name in names:
            rehearsal = None if load.rate in self._rehearsed[name] else self._plan.rehearse(load.rate)
            seconds += sum(self._seconds(each, name) for each in (rehearsal, load) if each)
        return seconds

    def _seconds(self, load: Load, name: str) -> float:
        """A run ends after its last gap, or when a server that is as fast as it ever was has answered everything."""
        return max(load.seconds, load.requests / self._speed.get(name, float("inf")))

    def _up(self) -> Generator:
        generator = self.begin()
        if not self._ready:
            try:
                generator.ready()
            except EngineError as error:
                raise generator.failed(f"did not start: {error}") from None
            self._ready = True
        return generator

    def _end(self) -> None:
        if self._generator:
            self._generator.close()
            self._generator = None


def _explained(server: Worker, error: str) -> EngineError:
    return EngineError(f"arm {server.name}: {server.ask('explain', error=error)} (its log: {server.log})")
