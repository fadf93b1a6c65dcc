"""A record of `quick` as people read it: the checks first, then what was measured."""

from collections.abc import Iterator
from statistics import median

from sage_eval.measure.base import View
from sage_eval.measure.quick.judge import overall, perplexity, ratios
from sage_eval.measure.quick.record import QuickRecord
from sage_eval.render.sections import Part
from sage_eval.render.table import MISSING, Table

_SHOWN = (
    "version", "device", "dtype", "kv_cache_dtype", "attention_backend", "prefill_attention_backend",
    "decode_attention_backend", "context_length", "max_total_num_tokens", "chunked_prefill_size", "disable_radix_cache",
    "tp_size", "dp_size", "pp_size",
)  # fmt: skip


def view(record: QuickRecord, earlier: QuickRecord | None = None) -> View:
    """The record, beside an earlier one if there is one."""
    return View("Quick check", [*_parts(record, earlier)])


def _parts(record: QuickRecord, earlier: QuickRecord | None) -> Iterator[Part]:
    told = record.server
    known = ", ".join(f"{name}={told[name]}" for name in _SHOWN if told.get(name) is not None)
    yield f"**{overall(record.checks)}**: {told.get('model_path')} after {record.seconds:.0f} s. {known}."
    if settings := told.get("sage_attn"):
        yield "Settings of `sage_attn`: " + ", ".join(f"{k}={v}" for k, v in settings.items() if v is not None) + "."
    yield Table("Checks", ("check", "answer", "found"), [(c.name, c.state, c.said) for c in record.checks], names=3)
    if record.speed:
        notes = ["×: so many times as fast as in the earlier record"] if earlier else []
        yield Table("Speed", *speed(record, earlier), notes=notes)
    facts = [(f"memory: {name}", f"{size:.2f} GB") for name, size in record.memory.items() if size]
    if record.logprobs:
        facts.insert(0, ("perplexity of the texts", f"{perplexity(record.logprobs.values):.2f}"))
        if earlier and earlier.logprobs:
            facts.insert(1, ("perplexity in the earlier record", f"{perplexity(earlier.logprobs.values):.2f}"))
    if earlier:
        facts += [(f"memory then: {name}", f"{size:.2f} GB") for name, size in earlier.memory.items() if size]
    total = sum(record.coverage.values())
    facts += [(f"computed: {name}", f"{tokens / total:.1%}") for name, tokens in sorted(record.coverage.items())]
    if facts:
        yield Table("As the server tells it", ("", "value"), facts)
    if missing := {name: why for name, why in record.missing.items() if not getattr(record, name, None)}:
        yield "Not measured: " + "; ".join(f"{name} ({why})" for name, why in missing.items()) + "."


def speed(record: QuickRecord, earlier: QuickRecord | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A header, and a row for each size of input, with × how much faster than in the earlier record."""
    faster = ratios(record, earlier) if earlier else {}
    header = ("input", "tokens", "first token (ms)", "prefill (tokens/s)", "decode (tokens/s)")
    rows = []
    for row in record.speed:
        first = f"{median(row.first) * 1e3:,.0f} ({min(row.first) * 1e3:,.0f} to {max(row.first) * 1e3:,.0f})"
        cells = [first, *(MISSING if rate is None else f"{rate:,.0f}" for rate in (row.prefill, row.decode))]
        if earlier:
            shown = [f" ×{ratio:.2f}" if ratio else "" for ratio in faster.get(row.size, [None] * 3)]
            cells = [cell + times for cell, times in zip(cells, shown, strict=True)]
        rows.append((row.size, f"{row.input_tokens:,}", *cells))
    return header, rows
