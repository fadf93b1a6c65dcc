"""What a serving record says of memory, as Markdown. Pure functions."""

from typing import Any

from sage_eval.probes.serving.capacity import Largest, largest, per_token
from sage_eval.probes.serving.record import Record

SAME_CACHE = (
    "The KV cache takes the same bytes a token in every arm: SageAttention does not shrink it. It quantises K and V "
    "for the time of a kernel, and holds those copies meanwhile."
)
PEAK = (
    "*Transient* is a prefill's peak above rest, not an arm's own copies: where another layer needs more than the "
    "attention does, copies of K and V hide under that peak, and no difference here does not mean that there are none."
)
FORMULA = (
    "Derived, not run: the most tokens n of one sequence for which *at rest* + *transient*(n) + n × *bytes a token* is "
    "not more than *free*. *At rest* is weights, graphs, buffers, and CUDA's own; *free* is the device's before any "
    "engine; *transient* is a prefill's peak above rest, on straight lines through the measured lengths, and beyond "
    "them only where two of them fill a chunk of the prefill. Fragments of PyTorch's allocator are not counted."
)


def memory(record: Record) -> str:
    """The section, or nothing where no engine came up."""
    if not any(arm.memory for arm in record.arms.values()):
        return ""
    parts = [_resting(record), _transients(record), _largest(record)]
    if len(_per_token(record)) > 1 and len(set(_per_token(record).values())) == 1:
        parts.append(SAME_CACHE)
    return "\n\n".join(["## Memory", *filter(None, parts)])


def _per_token(record: Record) -> dict[str, int]:
    return {name: per_token(arm) for name, arm in record.arms.items() if arm.memory}


def _resting(record: Record) -> str:
    lines = [
        "| arm | weights, MiB | KV cache, MiB | its tokens | bytes a token | graphs and buffers, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in _per_token(record).items():
        found = record.arms[name].memory
        known = found["weights"] + found["kv_cache"]
        rest = found["allocated"] - known if "allocated" in found else None
        sizes = (
            f"{_mib(found['weights'])} | {_mib(found['kv_cache'])} | {found['kv_tokens']:,} | {each:,} | {_mib(rest)}"
        )
        lines.append(f"| `{name}` | {sizes} |")
    return "\n".join(lines)


def _transients(record: Record) -> str:
    peaks = _peaks(record)
    if not peaks:
        return ""
    device = any("peak_allocated" in row for row in peaks)
    names = ("peak_allocated", "peak_reserved") if device else ("peak_rss",)
    lines = [
        "| input tokens | arm | " + " | ".join(f"{n.replace('_', ' ')}, MiB" for n in names)
        + " | transient, MiB | beyond the baseline's, MiB |",
        "|---" * (4 + len(names)) + "|",
    ]  # fmt: skip
    for row in peaks:
        extra = "–" if row["extra"] is None else f"{row['extra'] / 2**20:+,.1f}"
        values = " | ".join(_mib(row.get(name)) for name in names)
        lines.append(f"| {row['size']:,} | `{row['arm']}` | {values} | {_mib(row['transient'])} | {extra} |")
    lines.append("\n" + PEAK)
    if not device:
        lines.append("\nWithout a GPU these are resident bytes of the scheduler process, which hold more than tensors.")
    return "\n".join(lines)


def _largest(record: Record) -> str:
    found = {name: limit for name in record.arms if (limit := largest(record, name))}
    if not found:
        return ""
    lines = [
        "### The largest context that fits\n",
        "| arm | free, MiB | at rest, MiB | transient then, MiB | bytes a token | tokens of one sequence | bound by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, limit in found.items():
        sizes = " | ".join(map(_mib, (limit.free, limit.resting, limit.transient)))
        tokens = "–" if limit.tokens is None else f"{limit.tokens:,}"
        lines.append(f"| `{name}` | {sizes} | {limit.per_token:,} | {tokens} | {_bound(limit)} |")
    return "\n".join([*lines, "\n" + FORMULA])


def _bound(limit: Largest) -> str:
    if limit.tokens is None:
        return f"not derived: no two prompts of a whole chunk were measured, the longest has {limit.measured:,} tokens"
    bound = "the model's longest sequence" if limit.bound == "model" else "the card's memory"
    return bound + (f", extrapolated beyond {limit.measured:,} tokens" if limit.tokens > limit.measured else "")


def _peaks(record: Record) -> list[dict[str, Any]]:
    """Rows of prefill cells, in bytes: peaks, `transient` (peak minus rest), `extra` (beyond the baseline's).

    `extra` is against the baseline of the same block, but of its rows one a size is enough.
    """
    rows: list[dict[str, Any]] = []
    told: set[tuple[int, str]] = set()
    for block in sorted(record.blocks, key=lambda block: block.cell.size):
        if block.cell.kind != "prefill":
            continue
        transients = {arm: _transient(result.memory) for arm, result in block.results.items()}
        base = transients.get(record.baseline)
        for arm, result in block.results.items():
            own = transients[arm]
            extra = own - base if own is not None and base is not None and arm != record.baseline else None
            if arm == record.baseline and (block.cell.size, arm) in told:
                continue
            told.add((block.cell.size, arm))
            rows.append({"size": block.cell.size, "arm": arm, "transient": own, "extra": extra, **result.memory})
    return rows


def _transient(found: dict[str, int]) -> int | None:
    for name in ("allocated", "rss"):
        if f"peak_{name}" in found:
            return found[f"peak_{name}"] - found[f"before_{name}"]
    return None


def _mib(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:,.1f}"
