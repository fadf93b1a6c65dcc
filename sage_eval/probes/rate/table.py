"""A record of request rates as Markdown. Pure functions."""

from typing import Any

from sage_eval.probes.rate.load import ENOUGH, NEAR
from sage_eval.probes.rate.record import Record, label
from sage_eval.probes.rate.steady import GROWTH, LATENCIES
from sage_eval.probes.rate.summary import summarise


def render(record: Record) -> str:
    """The limits, then what was reached at each rate, then what the numbers mean.

    The summary is made anew: that of an older file was made by older rules.
    """
    found = summarise(record)
    rows = found["rows"]
    parts = [f"# Request rates: {record.model.get('name')}", _head(record), _limits(found["limits"])]
    parts += [_throughput(rows), _latency(rows), _notes(record, rows), _commands(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: Record) -> str:
    device = record.devices[0]["name"] if record.devices else f"{record.host.get('cpu')}, no GPU"
    versions = ", ".join(f"{name} {record.versions.get(name)}" for name in ("sglang", "torch"))
    settings = record.settings
    engine = ", ".join(f"{name}={value}" for name, value in settings["engine"].items() if value is not None)
    chunks = ", ".join(
        dict.fromkeys(str(arm.engine.get("chunked_prefill_size")) for arm in record.arms.values() if arm.engine)
    )
    lines = [
        f"{device}; {versions}. Baseline: `{record.baseline}`.",
        f"Requests of {settings['input_tokens']:,} input and {settings['output_tokens']:,} output tokens, "
        f"{settings['requests']:,} at most for a rate, and of a low one those of {settings['seconds']:g} s; "
        f"seed {settings['seed']}.",
        f"Settings of every server: {engine}. Prefill in chunks of {chunks or '?'} tokens.",
    ]
    return "\n\n".join(lines + [f"**{name} failed:** {arm.error}" for name, arm in record.arms.items() if arm.error])


def _limits(limits: dict[str, dict[str, Any]]) -> str:
    lines = []
    for arm, found in limits.items():
        parts = []
        if found["done"] is not None:
            parts.append(f"all at once, {found['done']:.3g} requests/s ({found['input_rate']:,.0f} input tokens/s)")
        if found["knee"] is not None:
            parts.append(f"kept up with {label(found['knee'])}")
        if found["open"]:
            parts.append(f"undecided at {', '.join(map(label, found['open']))}")
        if found["fell"] is not None:
            parts.append(f"fell behind at {label(found['fell'])}")
        if parts:
            lines.append(f"- `{arm}`: {'; '.join(parts)}")
    return "## Limits\n\n" + "\n".join(lines) if lines else ""


def _throughput(rows: list[dict[str, Any]]) -> str:
    kept = {True: "yes", False: "no", None: "–"}
    lines = [
        [
            *_which(row), f"{row['requests']:,}", str(row["repeats"]), _optional(row["sent"], 1, ".3g"),
            _optional(row["growth"], 1e3, "+.0f"), kept[row["kept"]], f"{row['done']:.3g}",
            f"{row['input_rate']:,.0f}", f"{row['output_rate']:,.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    head = [
        "asked", "arm", "requests", "repeats", "sent/s", "TTFT growth, ms/s", "kept up", "done/s", "input tokens/s",
        "output tokens/s",
    ]  # fmt: skip
    return _table("Throughput", head, lines)


def _latency(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            *_which(row), str(row["repeats"]), *_times(row["ttft"], "p50", "p95", "p99", "mean"), _ratio(row["ratio"]),
            *_times(row["itl"], "p50", "p95", "mean"), *_times(row["latency"], "p50", "p95", "mean"),
        ]
        for row in rows
    ]  # fmt: skip
    head = [
        "asked", "arm", "repeats", "TTFT p50", "p95", "p99", "mean", "× baseline",
        "ITL p50", "p95", "mean", "end to end p50", "p95", "mean",
    ]  # fmt: skip
    return _table("Latency, ms", head, lines)


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join([f"## {title}", "", *lines]) if rows else ""


def _which(row: dict[str, Any]) -> tuple[str, str]:
    return label(row["rate"]), f"`{row['arm']}`"


def _optional(value: float | None, factor: float, form: str) -> str:
    return "–" if value is None else format(value * factor, form)


def _times(found: dict[str, float], *names: str) -> list[str]:
    return [f"{found[name] * 1e3:,.1f}" if name in found else "–" for name in names]


def _ratio(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    value = f"{found['value']:.3f}"
    if found["low"] is None:
        return f"{value} ({found['method'].replace('round', 'repeat')}, no interval)"
    if found["method"].startswith("range"):
        return f"{value} ({found['low']:.3f} to {found['high']:.3f} in {found['rounds']} repeats)"
    return f"{value} [{found['low']:.3f}, {found['high']:.3f}]"


def _notes(record: Record, rows: list[dict[str, Any]]) -> str:
    behind = max((row["behind"] for row in rows), default=0.0)
    lines = [
        "Measured over HTTP by SGLang's own load generator (`sglang.bench_serving`): streamed answers, prompts of "
        "random token ids, gaps between requests of a Poisson process; *all at once* sends everything in the "
        "beginning. All arms were sent the same requests by the same plan, one arm after the other. Tokens become "
        "text by a tokenizer with a word for every id, so that each can be timed, whatever the weights.",
        _warm_up(record),
        "*Sent* is what was really sent: the Poisson process, whose seed is chosen so that it comes near to what was "
        "asked for, and the generator's own lateness, taken to grow evenly with every request. "
        "*TTFT growth* is that from the middle third of a run's requests to the last: a server that is asked for a "
        "tenth more than it can do lets requests wait 100 ms longer with every second. An arm *kept up* where this is "
        f"at most {GROWTH * 1e3:.0f} ms/s and the run lasted at least {LATENCIES} median latencies, and did not where "
        "it is clearly more, from the first third on; otherwise (–) the run is too short to say. Nor does a run say "
        f"that an arm kept up where the generator was late by over {NEAR * 100:g} % of the time in which it sends: "
        "less than the rate was sent. The worst repeat counts. *Done* is all requests over all the time, the last "
        "answer's included, so it is less than *sent* even of a fast server.",
        "Quantiles are of the requests of all repeats, those between tokens (ITL) the median of the repeats; p95 takes "
        f"{ENOUGH['p95']} values, p99 {ENOUGH['p99']}. × baseline is the baseline's median time to first token over "
        "the arm's, with the least and the greatest of the repeats where servers were up together and took turns, or, "
        "in brackets and of many repeats, an interval of 95 %. Requests of one run wait for each other, so they give "
        "no interval. A request that fails, or is answered with fewer tokens than asked for, fails its arm.",
        f"The load generator was at most {max(0.0, behind):.2f} s behind its own plan at the end of a run.",
    ]
    states = [state for block in record.blocks for state in (block.gpu_before, block.gpu_after) if state]
    spans = [
        f"{name} {min(values)}–{max(values)}"
        for name in ("sm_mhz", "watts", "celsius")
        if (values := [state[name] for state in states if name in state])
    ]
    lines.append(
        f"GPU before and after: {', '.join(spans)}."
        if spans
        else "No clocks, power or temperature: NVML knows of no GPU here."
    )
    for name, arm in record.arms.items():
        if total := sum(arm.coverage.values()):
            kernels = ", ".join(f"{kernel} {tokens / total:.1%}" for kernel, tokens in sorted(arm.coverage.items()))
            lines.append(f"Tokens of `{name}` by phase and kernel, warm-up included: {kernels}.")
    return "\n\n".join(lines)


def _warm_up(record: Record) -> str:
    first = "Each server warmed up with as many requests at once as run together"
    if (seconds := record.settings.get("rehearsal")) is None:
        return f"{first}, and with nothing else: what it did for the first time later on is part of what was measured."
    freeze = (
        f"{first}; then it was told to leave the objects of its start out of garbage collection (`/freeze_gc`), as a "
        "full one halts a server meanwhile."
    )
    if not seconds:
        return freeze
    return (
        f"{freeze} Before its first measured run at a rate it answered {seconds:g} s of other requests at that rate, "
        "if two or more come in that time, or, of all at once, up to twice as many as run together."
    )


def _commands(record: Record) -> str:
    found = [f"    {arm.command}" for arm in record.arms.values() if arm.command]
    title = "The same servers by hand"
    return f"<details><summary>{title}</summary>\n\n" + "\n\n".join(found) + "\n\n</details>" if found else ""
