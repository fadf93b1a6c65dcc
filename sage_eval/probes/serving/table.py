"""A serving record as Markdown. Pure functions."""

from typing import Any

from sage_eval.probes.serving.record import ArmRecord, Record

TITLES = {
    "prefill": ("Prefill: one prompt, one new token", "input tokens", "time to first token, ms"),
    "packed": ("Prefill: several prompts at once, one new token each", "input tokens × prompts", "time for all, ms"),
    "decode": ("Decode", "sequences", "time between tokens, ms"),
}
SAME_CACHE = (
    "The KV cache takes the same bytes a token in every arm: SageAttention does not shrink it. It quantises K and V "
    "for the time of a kernel, and what that takes is the transient memory above."
)


def render(record: Record) -> str:
    """Speed (for a serving record), then memory, then what the numbers mean."""
    parts = [
        f"# {'Serving' if record.kind == 'serving' else 'Memory of serving'}: {record.model.get('name')}",
        _head(record),
    ]
    if record.kind == "serving":
        parts += [_glance(record), *(_speed(record, kind) for kind in TITLES)]
    parts += [_memory(record), _notes(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: Record) -> str:
    hidden = any("allocated" in arm.memory for arm in record.arms.values())
    device = "a GPU that NVML does not show" if hidden else f"{record.host.get('cpu')}, no GPU"
    device = record.devices[0]["name"] if record.devices else device
    shown = {
        **record.settings["engine"],
        **{k: v for k, v in record.settings.items() if k not in ("engine", "model_args")},
    }
    settings = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
    chunks = {arm.engine.get("chunked_prefill_size") for arm in record.arms.values() if arm.engine}
    versions = ", ".join(f"{name} {record.versions.get(name)}" for name in ("sglang", "torch"))
    lines = [f"{device}; {versions}. Baseline: `{record.baseline}`."]
    lines.append(
        f"Settings of every arm: {settings}. Prefill in chunks of {', '.join(map(str, chunks)) or '?'} tokens."
    )
    lines += [f"**{name} failed:** {arm.error}" for name, arm in record.arms.items() if arm.error]
    return "\n\n".join(lines)


def _glance(record: Record) -> str:
    found = record.summary.get("glance", {})
    lines = [
        f"- `{arm}`: " + ", ".join(f"{name} ({_count(x['size'])}) {x['ratio']:.2f} ×" for name, x in classes.items())
        for arm, classes in found.items()
    ]
    return (
        f"Speed against `{record.baseline}` at a glance (time to first token):\n\n" + "\n".join(lines) if lines else ""
    )


def _speed(record: Record, kind: str) -> str:
    rows = [row for row in record.summary.get("rows", []) if row["kind"] == kind]
    if not rows:
        return ""
    title, size, what = TITLES[kind]
    shares = any("quadratic_share" in row for row in rows)
    lines = [
        f"## {title}\n",
        f"| {size} | arm | {what}: p50 (p20–p80) | tokens/s | × baseline | rounds |" + " quadratic |" * shares,
        "|---" * (6 + shares) + "|",
    ]
    for row in rows:
        p20, p50, p80 = (f"{row['seconds'][p] * 1e3:,.2f}" for p in ("p20", "p50", "p80"))
        named = f"{row['size']:,}" + (f" × {row['requests']}" if kind == "packed" else "")
        lines.append(
            f"| {named} | `{row['arm']}` | {p50} ({p20}–{p80}) | {row['tokens_per_second']:,.0f} "
            f"| {_ratio(row['ratio'])} | {row['rounds']} |" + f" {row.get('quadratic_share', 0):.0%} |" * shares
        )
    skipped = {(b.cell.size, arm): why for b in record.blocks if b.cell.kind == kind for arm, why in b.skipped.items()}
    measured = {(row["size"], row["arm"]) for row in rows}
    lines += [
        f"\n`{arm}` at {n:,}: not measured, {why}" for (n, arm), why in skipped.items() if (n, arm) not in measured
    ]
    return "\n".join(lines)


def _ratio(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    if found["low"] is None:
        return f"{found['value']:.3f} ({found['method']})"
    sign = "" if found["method"].startswith("bootstrap") else "*"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]{sign}"


def _memory(record: Record) -> str:
    arms = {name: arm.memory for name, arm in record.arms.items() if arm.memory}
    if not arms:
        return ""
    lines = [
        "## Memory\n",
        "| arm | weights, MiB | KV cache, MiB | its tokens | bytes a token | graphs and buffers, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, memory in arms.items():
        tokens = memory["kv_tokens"]
        each = _per_token(record.arms[name])
        known = memory["weights"] + memory["kv_cache"]
        rest = memory["allocated"] - known if "allocated" in memory else None
        sizes = f"{_mib(memory['weights'])} | {_mib(memory['kv_cache'])} | {tokens:,} | {each:,} | {_mib(rest)}"
        lines.append(f"| `{name}` | {sizes} |")
    peaks = _peaks(record)
    if peaks:
        device = any("peak_allocated" in row for row in peaks)
        names = ("peak_allocated", "peak_reserved") if device else ("peak_rss",)
        lines += [
            "\n| input tokens | arm | " + " | ".join(f"{n.replace('_', ' ')}, MiB" for n in names)
            + " | transient, MiB | beyond the baseline's, MiB |",
            "|---" * (4 + len(names)) + "|",
        ]  # fmt: skip
        for row in peaks:
            extra = "–" if row["extra"] is None else f"{row['extra'] / 2**20:+,.1f}"
            values = " | ".join(_mib(row.get(name)) for name in names)
            lines.append(f"| {row['size']:,} | `{row['arm']}` | {values} | {_mib(row['transient'])} | {extra} |")
        if not device:
            lines.append(
                "\nWithout a GPU these are resident bytes of the scheduler process, which hold more than tensors."
            )
    if len(arms) > 1 and len({_per_token(record.arms[name]) for name in arms}) == 1:
        lines.append("\n" + SAME_CACHE)
    return "\n".join(lines)


def _per_token(arm: ArmRecord) -> int:
    # The pool has a page more than it counts, which padding writes to.
    return round(arm.memory["kv_cache"] / (arm.memory["kv_tokens"] + int(arm.engine.get("page_size") or 1)))


def _peaks(record: Record) -> list[dict[str, Any]]:
    """Rows of prefill cells, in bytes: peaks, `transient` (peak minus rest), `extra` (beyond the baseline's)."""
    rows = []
    for block in sorted(record.blocks, key=lambda block: block.cell.size):
        if block.cell.kind != "prefill":
            continue
        transients = {arm: _transient(result.memory) for arm, result in block.results.items()}
        base = transients.get(record.baseline)
        for arm, result in block.results.items():
            own = transients[arm]
            extra = own - base if own is not None and base is not None and arm != record.baseline else None
            rows.append({"size": block.cell.size, "arm": arm, "transient": own, "extra": extra, **result.memory})
    return rows


def _transient(memory: dict[str, int]) -> int | None:
    for name in ("allocated", "rss"):
        if f"peak_{name}" in memory:
            return memory[f"peak_{name}"] - memory[f"before_{name}"]
    return None


def _notes(record: Record) -> str:
    lines = [
        "Times are `time.perf_counter` around SGLang's Engine in Python: handing over token ids, scheduling, computing "
        "and the reply's way back; not tokenising, and no HTTP. Prompts are random token ids, new ones each round. "
        "Decode is from the last sequence's first token to the last token, divided by the steps. The first run of a "
        "cell is a warm-up, except where it is long.",
        "Arms took turns round by round where they have an interval: 95 %, by bootstrap over rounds; marked *, too few "
        "rounds for that, the least and the greatest ratio of a round. "
        "The quadratic part is the share of the time that grows with the square of the length, from a fit over the "
        "lengths: about what attention takes. No profiler is run; `sage-eval bench kernels` times the kernels.",
    ]
    states = [state for block in record.blocks for state in (block.gpu_before, block.gpu_after) if state]
    if states:
        spans = [
            f"{name} {min(v)}–{max(v)}"
            for name in ("sm_mhz", "watts", "celsius")
            if (v := [s[name] for s in states if name in s])
        ]
        lines.append("GPU before and after the cells: " + ", ".join(spans) + ".")
    else:
        lines.append("No clocks, power or temperature: NVML knows of no GPU here.")
    for name, arm in record.arms.items():
        if arm.coverage:
            total = sum(arm.coverage.values())
            kernels = ", ".join(f"{kernel} {tokens / total:.1%}" for kernel, tokens in sorted(arm.coverage.items()))
            lines.append(f"Tokens of `{name}` by phase and kernel, warm-up included: {kernels}.")
    return "\n\n".join(lines)


def _mib(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:,.1f}"


def _count(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"
