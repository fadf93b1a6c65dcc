"""A serving record as Markdown. Pure functions."""

from typing import Any

from sage_eval.probes.serving.memory_table import memory
from sage_eval.probes.serving.mix import ANSWERS, PROMPTS
from sage_eval.probes.serving.profile_table import profiles
from sage_eval.probes.serving.record import Record
from sage_eval.probes.serving.summary import UNSTEADY, unsteady

TITLES = {
    "prefill": ("Prefill: one prompt, one new token", "input tokens", "time to first token, ms"),
    "packed": ("Prefill: several prompts at once, one new token each", "input tokens × prompts", "time for all, ms"),
    "decode": ("Decode", "sequences", "time between tokens, ms"),
    "mixed": ("Offline throughput: requests of mixed lengths, all at once", "requests", "time for all, ms"),
}


def render(record: Record) -> str:
    """Speed and where the time goes (for a serving record), then memory, then what the numbers mean."""
    parts = [
        f"# {'Serving' if record.kind == 'serving' else 'Memory of serving'}: {record.model.get('name')}",
        _head(record),
    ]
    if record.kind == "serving":
        parts += [_glance(record), *(_speed(record, kind) for kind in TITLES), profiles(record)]
    parts += [memory(record), _notes(record)]
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
        f"- `{arm}`: " + ", ".join(f"{name} ({_count(x['size'])}) {_short(x)}" for name, x in classes.items())
        for arm, classes in found.items()
    ]
    return (
        f"Speed against `{record.baseline}` at a glance (time to first token):\n\n" + "\n".join(lines) if lines else ""
    )


def _short(found: dict[str, Any]) -> str:
    sign = "*" if found.get("method", "").startswith("range") else ""
    interval = "" if found.get("low") is None else f" [{found['low']:.2f}, {found['high']:.2f}]{sign}"
    return f"{found['ratio']:.2f}{interval} ×" + (" (unsteady)" if found.get("unsteady") else "")


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
            f"| {_ratio(row['ratio'])} | {row['rounds']} |" + f" {_share(row)} |" * shares
        )
    if kind == "mixed":
        work = {(b.requests, b.tokens, b.new_tokens) for b in record.blocks if b.cell.kind == kind}
        lines += [f"\n{count} requests: {prompts:,} tokens of prompts and {new:,} of answers; tokens/s count both."
                  for count, prompts, new in sorted(work)]  # fmt: skip
    shaky = sorted({row["size"] for row in rows if unsteady(row)})
    if shaky:
        lines.append(
            f"\nUnsteady, p80 more than {UNSTEADY - 1:.0%} above p20 in some arm: "
            f"{', '.join(f'{size:,}' for size in shaky)}. The host may be the reason: where it starts kernels more "
            "slowly than the GPU computes them, its own load decides. On another host the ratio may differ."
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
    base = f" of {found['baseline'] * 1e3:,.2f}" if "baseline" in found else ""
    if found["low"] is None:
        return f"{found['value']:.3f} ({found['method']}){base}"
    sign = "" if found["method"].startswith("bootstrap") else "*"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]{sign}{base}"


def _share(row: dict[str, Any]) -> str:
    return f"{row['quadratic_share']:.0%}" if "quadratic_share" in row else "–"


def _notes(record: Record) -> str:
    lines = [
        "Times are `time.perf_counter` around SGLang's Engine in Python: handing over token ids, scheduling, computing "
        "and the reply's way back; not tokenising, and no HTTP. Prompts are random token ids, new ones each round. "
        "Decode is from the last sequence's first token to the last token, divided by the steps. The first run of a "
        "cell is a warm-up, except where it is a long prompt's.",
        "Arms took turns round by round where they have an interval: 95 %, by bootstrap over stretches of rounds, as a "
        "round resembles those before it; marked *, too few rounds for that, the least and the greatest ratio of a "
        "round. *Of* is the p50, in ms, of the baseline's runs that the ratio is of; its row shows the most rounds, "
        "perhaps beside another arm. "
        "The quadratic part is the share of the time that grows with the square of the length, from a fit over the "
        "lengths: about what attention takes"
        + ("; *Where the time goes* has what a profiler saw." if record.profiles else ", no run having been profiled."),
    ]
    if any(block.cell.kind == "mixed" for block in record.blocks):
        lines.append(
            "The mixed requests have prompts of {}–{:,} and answers of {}–{} tokens, each drawn log-uniformly, "
            "and no more than the model takes; their lengths are the same in every round and arm.".format(
                *PROMPTS, *ANSWERS
            )
        )
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


def _count(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"
