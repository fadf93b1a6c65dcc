"""Where the time goes, from a serving record's profiles, as Markdown. Pure functions."""

from collections.abc import Sequence

from sage_eval.probes.serving.record import Cell, Kernel, Profile, Record, Times

PARTS = {
    "attention": "attention", "products": "matrix products", "other": "everything else", "idle": "idle",
}  # fmt: skip
MEANING = (
    "One profiled run of each, after all timed ones. Prefill: a whole run, from its first kernel to its last; decode: "
    "one step. *Attention* is all that was launched inside SGLang's attention layer, with the quantisation; *matrix "
    "products* are the linear layers and the LM head; *idle* is the GPU waiting. A profiled run is slower than a timed "
    "one, as launching takes longer and the gaps grow: *idle, timed* is 1 − the busy time / the p50 of the tables "
    "above, which for a prefill is from the request to its answer; 0% where the busy time is no shorter."
)
ON_CPU = (
    " There is no GPU here: times are those of PyTorch's operations, which the profiler lengthens too, and *idle* is "
    "between them."
)
BY_NAME = (
    "Some kernels were replayed by a CUDA graph, which launches them as a whole: they found their part by their names, "
    "as seen under the layers when the same arm ran without graphs ({arms})."
)
GUESSED = 0.01
"""The share of guesses from which on they are told of."""
LENGTH = 80


def profiles(record: Record) -> str:
    """The section, or nothing where nothing was profiled."""
    found = [(profile, profile.times) for profile in _sorted(record) if profile.times]
    failed = [f"`{p.arm}` in {p.cell.name}: not profiled, {p.error}" for p in _sorted(record) if p.error]
    if not found and not failed:
        return ""
    timed = _timed(record)
    bases = {profile.cell: times for profile, times in found if profile.arm == record.baseline}
    lines = [
        f"| work | arm | {' | '.join(PARTS.values())} | idle, timed | attention, ms | × baseline | all, ms |",
        "|---" * (6 + len(PARTS)) + "|",
    ]
    for profile, times in found:
        whole = sum(times.seconds.values())
        shares = " | ".join(f"{times.seconds[part] / whole:.0%}" for part in PARTS)
        own = times.seconds["attention"]
        base = bases[profile.cell].seconds["attention"] if profile.cell in bases else None
        ratio = "–" if not base or not own or profile.arm == record.baseline else f"{base / own:.2f}"
        lines.append(
            f"| {profile.cell.kind}, {profile.cell.size:,} | `{profile.arm}` | {shares} "
            f"| {_idle(times, timed.get((profile.arm, profile.cell)))} "
            f"| {own * 1e3:,.3f} | {ratio} | {whole * 1e3:,.2f} |"
        )
    meaning = MEANING + ("" if any("allocated" in arm.memory for arm in record.arms.values()) else ON_CPU)
    table = ["\n".join(lines), meaning] if found else []
    return "\n\n".join(["## Where the time goes", *table, *_named(found), *_kernels(found), *failed])


def _timed(record: Record) -> dict[tuple[str, Cell], float]:
    """The p50 of each arm in each cell, in seconds, as the tables of times show it."""
    rows = record.summary.get("rows", [])
    return {(row["arm"], Cell(kind=row["kind"], size=row["size"])): row["seconds"]["p50"] for row in rows}


def _idle(times: Times, timed: float | None) -> str:
    """The share of a timed run in which the device had nothing to do, if it was as busy then as under the profiler."""
    if timed is None:
        return "–"
    busy = sum(seconds for part, seconds in times.seconds.items() if part != "idle")
    return f"{max(0.0, 1 - busy / timed):.0%}"


def _sorted(record: Record) -> list[Profile]:
    arms = list(record.arms)
    kinds = ("prefill", "decode")
    return sorted(record.profiles, key=lambda p: (kinds.index(p.cell.kind), p.cell.size, arms.index(p.arm)))


def _named(found: Sequence[tuple[Profile, Times]]) -> list[str]:
    """How far names decided."""
    named = [(profile, times) for profile, times in found if times.by == "name"]
    if not named:
        return []
    where = dict.fromkeys(f"`{profile.arm}` in {profile.cell.kind}" for profile, _ in named)
    lines = [BY_NAME.format(arms=", ".join(where))]
    guesses = [
        f"`{profile.arm}` in {profile.cell.name} {times.guessed:.0%}"
        for profile, times in named
        if times.guessed >= GUESSED
    ]
    if guesses:
        lines.append("Of the busy time, names not seen then, guessed by parts of them: " + ", ".join(guesses) + ".")
    return lines


def _kernels(found: Sequence[tuple[Profile, Times]]) -> list[str]:
    """The attention's kernels at each arm's longest prompt."""
    longest: dict[str, tuple[Profile, Times]] = {}
    for profile, times in found:
        if profile.cell.kind == "prefill":
            longest[profile.arm] = (profile, times)
    lines = [
        f"- `{arm}`, {profile.cell.size:,} tokens: " + ", ".join(_kernel(kernel, times) for kernel in times.kernels)
        for arm, (profile, times) in longest.items()
        if times.kernels
    ]
    if not lines:
        return []
    return ["The attention's kernels with the most time, at the longest prompt profiled:\n\n" + "\n".join(lines)]


def _kernel(kernel: Kernel, times: Times) -> str:
    name = kernel.name.removeprefix("void ").replace("`", "'")
    name = name if len(name) <= LENGTH else name[: LENGTH - 1] + "…"
    return f"`{name}` {kernel.seconds / times.seconds['attention']:.0%}"
