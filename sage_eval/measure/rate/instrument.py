"""Time to first token over the request rate: SGLang servers under SGLang's own load generator.

Every server is warmed up once it is up, then answers unmeasured requests at each rate before its first measured ones
there. The arms of a block are sent the same requests with the same gaps, one arm after the other, and another arm
begins each time.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from sage_eval.arms import gpu
from sage_eval.arms.shape import describe, vocabulary
from sage_eval.arms.spec import ArmSpec
from sage_eval.arms.turns import rotated
from sage_eval.arms.worker import Worker
from sage_eval.errors import EngineError
from sage_eval.measure.base import Instrument, Session, View, cache_for
from sage_eval.measure.rate.plan import RatePlan
from sage_eval.measure.rate.summary import Run
from sage_eval.measure.rate.traffic import Traffic, write_words
from sage_eval.measure.rate.view import view
from sage_eval.store.record import Record

_SETTINGS = {"input_tokens", "output_tokens", "requests", "seconds", "rehearsal", "seed"}


class Rate(Instrument[RatePlan, Run]):
    """Time to first token over the request rate: one SGLang server per arm, under SGLang's own load generator.

    All arms get the same requests at the same moments. What is finished is kept: the same command goes on where an
    earlier one was cut short. Speed needs no weights: --shape, or a model folder with a config.json alone.
    """

    kind, title = "rate", "Request rates"
    plan, row = RatePlan, Run
    worker = "sage_eval.measure.rate.server:RateServer"
    generator: ClassVar[str] = "sage_eval.measure.rate.generator:LoadGenerator"

    def check(self, plan: RatePlan, model: Path) -> None:
        """Refuse what is no language model."""
        vocabulary(describe(model))

    def settings(self, plan: RatePlan) -> dict[str, Any]:
        """The servers', and what they are sent."""
        return {"engine": self.arguments(plan) | plan.model_args, **plan.model_dump(include=_SETTINGS)}

    def arguments(self, plan: RatePlan) -> dict[str, Any]:
        """Room for as many requests as run together."""
        return {
            **plan.engine(),
            "max_length": plan.input_tokens + plan.output_tokens,
            "max_total_tokens": self.cache_tokens(plan),
            "max_running_requests": plan.running,
            **plan.graphs(plan.running),
        }

    def cache_tokens(self, plan: RatePlan) -> int:
        return cache_for(min(plan.requests, plan.running) * (plan.input_tokens + plan.output_tokens))

    def cells(self, plan: RatePlan) -> Sequence[str]:
        return list(plan.loads())

    def work(self, session: Session[RatePlan, Run], save: Callable[[], None]) -> None:
        """Cell by cell, with one load generator for all arms; its log lies beside theirs."""
        words = write_words(vocabulary(session.record.provenance.model), session.scratch / "words")
        flush = not session.record.settings["engine"]["disable_radix_cache"]
        with Traffic(session.plan, self.generator, words, session.logs, flush=flush) as session.shared:
            super().work(session, save)

    def order(self, session: Session[RatePlan, Run], arm: ArmSpec) -> dict[str, Any]:
        """With the tokenizer that the load generator has."""
        order = super().order(session, arm)
        order["arguments"] |= {"tokenizer_path": str(session.scratch / "words")}
        return order

    def introduce(self, session: Session[RatePlan, Run], worker: Worker) -> None:
        """Refuse an arm in which fewer requests would run together than in the others."""
        session.shared.begin()  # it takes its time while the servers take theirs
        super().introduce(session, worker)
        asked = session.record.settings["engine"]["max_total_tokens"]
        held = session.record.arms[worker.name].engine["max_total_num_tokens"]
        if asked and held < asked:
            raise EngineError(
                f"arm {worker.name}: the KV cache holds {held:,} tokens where {asked:,} were asked for, so fewer "
                "requests would run together than in the other arms: lower --running, or say --resident 1"
            )

    def warm_up(self, session: Session[RatePlan, Run], worker: Worker) -> None:
        """As many requests at once as run together."""
        session.shared.warm_up(worker)

    def expected(self, session: Session[RatePlan, Run], cell: str, names: Sequence[str]) -> float:
        seconds: float = session.shared.expected(session.plan.loads()[cell], names)
        return seconds

    def run(self, session: Session[RatePlan, Run], cell: str, names: Sequence[str]) -> Iterator[Run]:
        """The arm that begins is another one at the next rate, and at this rate in the next repeat."""
        load, traffic, turns = session.plan.loads()[cell], session.shared, session.turns
        for name in names:
            turns.guarded(name, lambda server: traffic.rehearse(load.rate, server))
        before, started, block = gpu.state(), turns.now(), session.next_block()
        shift = load.repeat + session.plan.rates.index(load.rate)
        found = turns.each(rotated(names, shift), lambda server: traffic.send(load, server))
        states = [state for state in (before, gpu.state()) if state]
        shown = ", ".join(f"{name} {median(answers['ttft']) * 1e3:,.0f} ms" for name, answers in found.items())
        if found:
            session.say(f"{cell}: TTFT {shown} ({turns.now() - started:.1f} s)")
        for name, answers in found.items():
            yield Run(
                arm=name, cell=cell, block=block, rate=load.rate, repeat=load.repeat, seed=load.seed, gpu=states,
                **answers,
            )  # fmt: skip

    def view(self, record: Record[Run]) -> View:
        return view(record)
