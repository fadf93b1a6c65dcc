"""How fast an engine serves, and what memory it takes, for several attention backends side by side."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sage_eval.arms import gpu
from sage_eval.arms.shape import describe, vocabulary
from sage_eval.arms.worker import Worker
from sage_eval.errors import UsageError
from sage_eval.measure.base import Instrument, View, cache_for
from sage_eval.measure.serving.plan import Cell, ServingPlan
from sage_eval.measure.serving.summary import Served
from sage_eval.measure.serving.view import view
from sage_eval.measure.serving.work import (
    Bench,
    ask,
    done,
    left_out,
    predicted,
    profile,
    run,
    timed,
    too_long,
    unprofiled,
)  # fmt: skip
from sage_eval.store.record import Record

PROFILE_COST = 4.0
"""A profile takes so many times as long as its run, roughly: it may be repeated without graphs, and traces are read."""


class Serving(Instrument[ServingPlan, Served]):
    """Time prefill and decode of several attention backends side by side, and what memory they take.

    Engines take turns on one GPU. Speed needs no weights: --shape, or a model folder with a config.json alone.
    """

    kind, title = "serving", "Serving"
    plan, row = ServingPlan, Served
    worker = "sage_eval.measure.serving.worker:ServingWorker"

    def resolve(self, plan: ServingPlan, model: Path) -> ServingPlan:
        """A mix has no request that is longer than the model takes."""
        positions = describe(model).get("max_position_embeddings")
        return super().resolve(plan, model).model_copy(update={"positions": positions})

    def check(self, plan: ServingPlan, model: Path) -> None:
        """Refuse a plan without work, and a model without tokens."""
        vocabulary(describe(model))
        if not plan.cells():
            raise UsageError("there is nothing to measure: give --lengths, --batches or --mixed of 1 and more")

    def settings(self, plan: ServingPlan) -> dict[str, Any]:
        """Without the sizes: more of them go into the same record."""
        own = plan.model_dump(include={"packed_tokens", "decode_context", "decode_steps", "seed", "model_args"})
        return {"engine": plan.engine() | {"skip_tokenizer_init": True}, **own}

    def arguments(self, plan: ServingPlan) -> dict[str, Any]:
        """Room for the largest cell, and CUDA graphs for the largest batch unless `model_args` has its own."""
        sizes = [plan.sizes(cell) for cell in plan.cells()]
        batch = max((cell.size for cell in plan.cells() if cell.kind in ("decode", "mixed")), default=0)
        return {
            "max_length": max(sum(size) for requests in sizes for size in requests),
            "max_total_tokens": self.cache_tokens(plan),
            "max_running_requests": max(16, *map(len, sizes)),
            **plan.engine(),
            "skip_tokenizer_init": True,
            **plan.graphs(batch),
        }

    def cache_tokens(self, plan: ServingPlan) -> int:
        return cache_for(max(sum(map(sum, plan.sizes(cell))) for cell in plan.cells()))

    def cells(self, plan: ServingPlan) -> Sequence[str]:
        return [str(cell) for cell in plan.cells()]

    def work(self, session: Bench, save: Callable[[], None]) -> None:
        session.shared = _free_bytes()  # of the device, before any engine is up
        super().work(session, save)

    def warm_up(self, session: Bench, worker: Worker) -> None:
        """Every path once: a short prompt, one of several chunks (new tokens after a prefix), a few steps of decode."""
        plan = session.plan
        chunk = max(1024, int(session.record.arms[worker.name].engine.get("chunked_prefill_size") or 0))
        lengths = plan.lengths or (plan.decode_context,)
        for length in sorted({min(*lengths, chunk), min(max(lengths), chunk * 5 // 2)}):
            run(session, worker, seed=0, requests=1, length=length, new_tokens=1)
        if plan.batches and not plan.memory_only:
            run(session, worker, seed=0, requests=1, length=plan.decode_context, new_tokens=plan.decode_steps)
        _note_device_memory(session)

    def lacking(self, session: Bench, cell: str, names: Sequence[str]) -> list[str]:
        """Without those that one run would take too long."""
        wanted = Cell.parse(cell)
        return [name for name in names if not done(session, name, wanted) and not too_long(session, name, wanted)]

    def expected(self, session: Bench, cell: str, names: Sequence[str]) -> float:
        wanted = Cell.parse(cell)
        return sum(predicted(session, name, wanted) for name in names if not too_long(session, name, wanted))

    def run(self, session: Bench, cell: str, names: Sequence[str]) -> list[Served]:
        """A block, and what its cell would take too long for."""
        wanted = Cell.parse(cell)
        rows = timed(session, wanted, [name for name in names if not too_long(session, name, wanted)])
        for name in session.turns.up([arm.name for arm in session.plan.arms]) if rows else ():
            if left_out(session, name, wanted):
                why = f"one run would take about {predicted(session, name, wanted):.0f} s"
                amount = session.plan.amount(wanted)
                rows.append(Served(arm=name, block=rows[0].block, skipped=why, **amount))
        return rows

    def unfinished(self, session: Bench, names: Sequence[str]) -> list[str]:
        return [name for name in names if unprofiled(session, name)]

    def finish(self, session: Bench, names: Sequence[str], save: Callable[[], None]) -> bool:
        """Profile what was timed: an engine that was profiled is never timed again."""
        if left := [str(cell) for cell in session.plan.cells() if any(left_out(session, name, cell) for name in names)]:
            session.say(f"{', '.join(left)}: left out where one run would take longer than {session.plan.longest:g} s")
        for name in names:
            for row, seconds in unprofiled(session, name):
                if name not in session.turns:
                    break
                if session.turns.over(PROFILE_COST * seconds, what=f"the profile of {row.cell}"):
                    return False
                session.turns.guarded(name, partial(profile, session, row=row))
                save()
        return True

    def view(self, record: Record[Served]) -> View:
        return view(record, self.title)


class Memory(Serving):
    """Records of the former command `bench memory`, which is `bench serving --memory-only` now."""

    kind, title = "memory", "Memory of serving"


def _note_device_memory(session: Bench) -> None:
    """What the device had before, and what an engine holds of it beyond PyTorch's count: context and libraries.

    The driver tells of no process by itself where that process is in a container, so the engines share what all of
    them hold.
    """
    before, free = session.shared, _free_bytes()
    if free is None or before is None:
        return
    up = session.turns.up(list(session.record.arms))
    reserved = session.turns.each(up, lambda worker: ask(session, worker, "memory").get("reserved", 0))
    beyond = max(0, before - free - sum(reserved.values())) // max(1, len(reserved))
    for name in reserved:
        session.record.arms[name].memory |= {"device_free": before, "beyond_torch": beyond}


def _free_bytes() -> int | None:
    free = (gpu.state() or {}).get("free_mib")
    return None if free is None else free << 20
