"""Where the time goes, from the profiles of a serving record. Pure functions."""

from collections.abc import Iterator, Sequence

from sage_eval.measure.serving.summary import KINDS, Kernel, Profile, Served, quantiles
from sage_eval.render.table import MISSING, Table
from sage_eval.store.record import Record

PARTS = {"attention": "attention", "products": "matrix products", "other": "everything else", "idle": "idle"}
MEANING = (
    "One run of each under a profiler, after all timed ones: a whole prefill, or one step of decode. *Attention* is "
    "all that SGLang's attention layer launched, quantisation included; *matrix products* are the linear layers and "
    "the LM head; *idle* is the GPU waiting, which a profiler lengthens. *Idle, timed* is 1 − the busy time / the p50 "
    "of the tables above: 0% where the busy time is no shorter."
)
ON_CPU = "Without a GPU these are times of PyTorch's operations, which a profiler lengthens too."
BY_NAME = (
    "A CUDA graph replays its kernels as a whole: their names decided, as seen under the layers when the same arm ran "
    "without graphs ({arms})."
)
GUESSED = 0.01
"""The share of guesses from which on they are reported."""
LENGTH = 80

Profiled = Sequence[tuple[Served, Profile]]


def profiles(record: Record[Served], timed: Sequence[Served]) -> Iterator[str | Table]:
    """The table and the attention's kernels, if anything was profiled; `timed` are the rows of the tables of times."""
    arms = list(record.arms)
    profiled = [(row, row.profile) for row in record.rows if row.profile]
    profiled.sort(key=lambda pair: (KINDS.index(pair[0].work.kind), pair[0].work.size, arms.index(pair[0].arm)))
    failed = [f"`{row.arm}` in {row.cell}: not profiled, {profile.error}" for row, profile in profiled if profile.error]
    if profiled := [(row, profile) for row, profile in profiled if not profile.error]:
        on_gpu = any("allocated" in arm.memory for arm in record.arms.values())
        notes = [MEANING, *[ON_CPU] * (not on_gpu), *_by_name(profiled), *failed]
        header = ("work", "arm", *PARTS.values(), "idle, timed", "attention, ms", "× baseline", "all, ms")
        yield Table("Where the time goes", header, list(_lines(record, profiled, timed)), notes, names=2)
        yield from _kernels(profiled)
    elif failed:
        yield "\n\n".join(failed)


def _lines(record: Record[Served], profiled: Profiled, timed: Sequence[Served]) -> Iterator[list[str]]:
    medians = {(row.arm, row.cell): quantiles(row)[1] for row in timed}
    bases = {row.cell: profile.seconds["attention"] for row, profile in profiled if row.arm == record.baseline}
    for row, profile in profiled:
        whole, own = sum(profile.seconds.values()), profile.seconds["attention"]
        base, median = bases.get(row.cell), medians.get((row.arm, row.cell))
        # As if the device were as busy in a timed run as under the profiler.
        idle = MISSING if median is None else f"{max(0.0, 1 - (whole - profile.seconds['idle']) / median):.0%}"
        ratio = MISSING if not base or not own or row.arm == record.baseline else f"{base / own:.2f}"
        shares = [f"{profile.seconds[part] / whole:.0%}" for part in PARTS]
        work = f"{row.work.kind}, {row.work.size:,}"
        yield [work, row.arm, *shares, idle, f"{own * 1e3:,.3f}", ratio, f"{whole * 1e3:,.2f}"]


def _by_name(profiled: Profiled) -> Iterator[str]:
    """How far names decided."""
    named = [(row, profile) for row, profile in profiled if profile.by == "name"]
    if named:
        yield BY_NAME.format(arms=", ".join(dict.fromkeys(f"`{row.arm}` in {row.work.kind}" for row, _ in named)))
    if guesses := [
        f"`{row.arm}` in {row.cell} {profile.guessed:.0%}" for row, profile in named if profile.guessed >= GUESSED
    ]:
        yield f"Share of the busy time with names that were not seen then, guessed: {', '.join(guesses)}."


def _kernels(profiled: Profiled) -> Iterator[str]:
    """The attention's kernels at each arm's longest prompt."""
    longest = {row.arm: (row, profile) for row, profile in profiled if row.work.kind == "prefill" and profile.kernels}
    lines = [
        f"- `{arm}`, {row.work.size:,} tokens: " + ", ".join(_kernel(kernel, profile) for kernel in profile.kernels)
        for arm, (row, profile) in longest.items()
    ]
    if lines:
        yield "The attention's kernels with the most time, at the longest prompt profiled:\n\n" + "\n".join(lines)


def _kernel(kernel: Kernel, profile: Profile) -> str:
    name = kernel.name.removeprefix("void ").replace("`", "'")
    name = name if len(name) <= LENGTH else name[: LENGTH - 1] + "…"
    return f"`{name}` {kernel.seconds / profile.seconds['attention']:.0%}"
