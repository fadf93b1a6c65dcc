"""Runs of one cell, and how long they will take: arms take turns, round by round with the same prompts."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from sage_eval.arms import gpu
from sage_eval.arms.shape import vocabulary
from sage_eval.arms.turns import rotated
from sage_eval.arms.worker import Worker
from sage_eval.errors import SageEvalError
from sage_eval.measure.base import Session
from sage_eval.measure.serving.plan import Cell, ServingPlan, predict, predict_mix
from sage_eval.measure.serving.summary import Profile, Served, latest, typical

Bench = Session[ServingPlan, Served]

MAX_ROUNDS = 200
WARM_SHARE = 0.2
"""Of a cell's seconds: where every arm's first run of one prompt takes longer, it is not thrown away as a warm-up.

One arm alone that takes so long compiles a kernel. Of many requests at once the first run always is thrown away: they
come in batches of many sizes, and a kernel that one arm compiles for some of them hides in the time of all.
"""
ALLOWANCE = 600.0
"""Extra seconds per answer, for kernels that are compiled and traces that are written."""
SLOWER = 10.0
"""A run may take so many times as long as the longest that is asked for: not every one is predicted."""
WARM_UP, PROFILED = -1, -2
"""Rounds of their own, so that no timed one finds its prompts in a prefix cache."""


def ask(bench: Bench, worker: Worker, do: str, **command: Any) -> Any:
    """A worker's answer; `EngineError` where it takes longer than `longest` and the rest of `total` allow."""
    within = ALLOWANCE + min(SLOWER * bench.plan.longest, max(0.0, bench.turns.left()))
    return worker.ask(do, within=within, **command)


def run(bench: Bench, worker: Worker, do: str = "run", **command: Any) -> Any:
    """Seconds of one run, or its profile."""
    return ask(bench, worker, do, vocabulary=vocabulary(bench.record.provenance.model), **command)


def seeded(bench: Bench, cell: Cell, round_: int) -> dict[str, Any]:
    """What a worker is asked to run in a round; all arms get the same prompts."""
    seed = zlib.crc32(f"{bench.plan.seed} {cell} {round_}".encode())
    return bench.plan.command(cell, profiled=round_ == PROFILED) | {"seed": seed}


def timed(bench: Bench, cell: Cell, names: Sequence[str]) -> list[Served]:
    """The rows of one block. The arms `names` take turns, and each round begins with the next of them."""
    plan, turns = bench.plan, bench.turns
    block, before, started = bench.next_block(), gpu.state(), turns.now()

    def first(worker: Worker) -> Served:
        """The first run, with the memory it took."""
        rest = ask(bench, worker, "memory")
        seconds = run(bench, worker, **seeded(bench, cell, WARM_UP))
        peak = ask(bench, worker, "memory")
        memory = {f"before_{name}": rest[name] for name in ("allocated", "reserved", "rss") if name in rest}
        memory |= {name: value for name, value in peak.items() if name.startswith("peak_") or name == "kv_cache"}
        return Served(arm=worker.name, block=block, warm_up=seconds, memory=memory, **plan.amount(cell))

    rows = turns.each(names, first)
    firsts = [row.warm_up or 0.0 for row in rows.values()]
    if cell.kind == "prefill" and firsts and min(firsts) > WARM_SHARE * plan.seconds and not plan.memory_only:
        for row in rows.values():
            row.seconds, row.warm_up = [row.warm_up or 0.0], None
    rounds, longest = 0, len(firsts) * min(firsts, default=0.0)
    while rounds < MAX_ROUNDS and not plan.memory_only:
        begun = turns.now()
        up = [name for name in turns.up(names) if name in rows]
        # Always one round of what has no timed run yet.
        due = [name for name in up if len(rows[name].seconds) <= rounds]
        late = begun - started + longest > plan.seconds or longest >= turns.left()
        if not up or (rounds and late):
            break
        again = partial(run, bench, **seeded(bench, cell, rounds))
        for name, seconds in turns.each(rotated(due, rounds), again).items():
            rows[name].seconds.append(seconds)
        longest, rounds = max(longest, turns.now() - begun), rounds + 1
    measured = [row for row in rows.values() if row.seconds or plan.memory_only]
    states = [state for state in (before, gpu.state()) if state]
    for row in measured:
        row.gpu = states
    best = ", ".join(f"{row.arm} {row.fastest * 1e3:,.1f} ms" for row in measured)
    if best:
        bench.say(f"{cell}: {best} ({rounds} rounds, {turns.now() - started:.1f} s)")
    return measured


def profile(bench: Bench, worker: Worker, row: Served) -> None:
    """Profile the work of a row. An engine that fails meanwhile is ended; its arm has not failed: it is timed."""
    try:
        command = seeded(bench, row.work, PROFILED)
        row.profile = Profile(**run(bench, worker, "profile", kind=row.work.kind, **command))
    except SageEvalError as error:
        bench.turns.end(worker.name)
        row.profile = Profile(error=str(error))
    failed = f" in vain: {row.profile.error}" if row.profile.error else ""
    bench.say(f"{row.cell}: {worker.name} profiled{failed}")


def unprofiled(bench: Bench, name: str) -> list[tuple[Served, float]]:
    """The latest rows of an arm that lack a profile and are not too long for one, with seconds without profiler."""
    rows = []
    for cell in bench.plan.cells() if bench.plan.profile and not bench.plan.memory_only else ():
        row = latest(bench.record, name, cell)
        profiled = any(row.profile for row in bench.record.rows if (row.arm, row.work) == (name, cell))
        if row and not profiled and cell.kind in ("prefill", "decode"):
            steps = int(bench.plan.command(cell, profiled=True)["new_tokens"])
            rows.append((row, typical(bench.record, name, cell.kind)[cell.size] * steps))
    return [(row, seconds) for row, seconds in rows if seconds <= bench.plan.profile]


def predicted(bench: Bench, name: str, cell: Cell) -> float:
    """Seconds of one run, as far as shorter ones tell."""
    prefill = typical(bench.record, name, "prefill")
    match cell.kind:
        case "prefill":
            return predict(prefill, cell.size) or 0.0
        case "mixed":
            return predict_mix(bench.plan.sizes(cell), prefill, typical(bench.record, name, "decode")) or 0.0
    return 0.0


def done(bench: Bench, name: str, cell: Cell) -> bool:
    """Whether there are times, or, where memory alone is asked for, any run."""
    rows = [row for row in bench.record.rows if (row.arm, row.work) == (name, cell) and not row.skipped]
    return any(row.seconds or bench.plan.memory_only for row in rows)


def too_long(bench: Bench, name: str, cell: Cell) -> bool:
    """Whether one run would take longer than is asked for."""
    return predicted(bench, name, cell) > bench.plan.longest


def left_out(bench: Bench, name: str, cell: Cell) -> bool:
    """Whether it was not measured, as it would take too long."""
    return not done(bench, name, cell) and too_long(bench, name, cell)
