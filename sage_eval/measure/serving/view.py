"""A serving record as people see it: speed, where the time goes, memory, and what the numbers mean. Pure functions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sage_eval.measure import facts
from sage_eval.measure.base import View
from sage_eval.measure.serving.figures import Ratios, drawings
from sage_eval.measure.serving.memory import memory
from sage_eval.measure.serving.plan import ANSWERS, PROMPTS, quadratic_share
from sage_eval.measure.serving.profile_view import profiles
from sage_eval.measure.serving.summary import (
    KINDS,
    UNSTEADY,
    Served,
    compared,
    counted,
    nearest,
    quantiles,
    skipped,
    unsteady,
)  # fmt: skip
from sage_eval.render.figures import svgs
from sage_eval.render.table import MISSING, Table
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from sage_eval.statistics.ratio import Ratio

TITLES = {
    "prefill": ("Prefill: one prompt, one new token", "input tokens", "time to first token, ms"),
    "packed": ("Prefill: several prompts at once, one new token each", "input tokens × prompts", "time for all, ms"),
    "decode": ("Decode", "sequences", "time between tokens, ms"),
    "mixed": ("Offline throughput: requests of mixed lengths, all at once", "requests", "time for all, ms"),
}
TIMES = (
    "Times are `time.perf_counter` around SGLang's Engine in Python, without tokenising and HTTP. Prompts are random "
    "token ids, new ones each round. Decode is from the last sequence's first token to the last token, per step. The "
    "first run of a cell is a warm-up, except where it is a long prompt's."
)
RATIOS = (
    "Brackets are the 95 % interval of arms that took turns, by bootstrap over stretches of rounds; with *, for too "
    "few rounds or such as resemble their neighbours, the least and the greatest ratio of a round. *Of* is the p50, in "
    "ms, of the baseline's runs that the ratio is of. *Quadratic* is the share of the time that grows with the square "
    "of the length, by a fit over the lengths: about what attention takes."
)
MIXED = (
    f"The mixed requests have prompts of {PROMPTS[0]}–{PROMPTS[1]:,} and answers of {ANSWERS[0]}–{ANSWERS[1]} tokens, "
    "each drawn log-uniformly, and no more than the model takes; their lengths are the same in every round and arm."
)


def view(record: Record[Served], title: str) -> View:
    """Speed and profiles where anything was timed; memory in any case."""
    rows = counted(record)
    ratios = {(row.arm, row.cell): found for row in rows if (found := compared(record, row))}
    parts: list[str | Table] = [*facts.head(record), *_short(record, rows, ratios)]
    parts += [
        _speed(record, kind, mine, ratios) for kind in KINDS if (mine := [row for row in rows if row.work.kind == kind])
    ]
    parts += [*profiles(record, rows), *memory(record), *([TIMES, RATIOS] if rows else [])]
    parts += [facts.clocks(state for row in record.rows for state in row.gpu), *facts.coverage(record)]
    return View(f"{title}: {record.provenance.model.get('name')}", parts, svgs(drawings(record, rows, ratios)))


def _short(record: Record[Served], rows: list[Served], ratios: Ratios) -> Iterator[str]:
    """Each arm's ratio at a short, a medium and a long prompt."""
    lines, shaky = [], {row.cell for row in rows if unsteady(row)}
    for arm in record.arms:
        mine = nearest([row for row in rows if row.arm == arm and (row.arm, row.cell) in ratios])
        classes = [
            f"{name} ({_count(row.work.size)}) {_interval(ratios[row.arm, row.cell][0], 2)} ×"
            + " (unsteady)" * (row.cell in shaky)
            for name, row in mine.items()
        ]
        lines += [f"- `{arm}`: {', '.join(classes)}"] if classes else []
    if lines:
        yield f"Speed against `{record.baseline}` in short (time to first token):\n\n" + "\n".join(lines)


def _speed(record: Record[Served], kind: str, rows: list[Served], ratios: Ratios) -> Table:
    """The rows of one kind of work."""
    title, size, what = TITLES[kind]
    medians = {arm: {row.work.size: quantiles(row)[1] for row in rows if row.arm == arm} for arm in record.arms}
    shares = {arm: quadratic_share(known) if kind == "prefill" else {} for arm, known in medians.items()}
    fitted = any(shares.values())
    lines = []
    for row in rows:
        p20, p50, p80 = (f"{seconds * 1e3:,.2f}" for seconds in quantiles(row))
        share, against = shares[row.arm].get(row.work.size), _against(ratios.get((row.arm, row.cell)))
        lines.append([
            f"{row.work.size:,}" + (f" × {row.requests}" if kind == "packed" else ""), row.arm,
            f"{p50} ({p20}–{p80})", f"{row.computed / quantiles(row)[1]:,.0f}", against,
            str(len(row.seconds)), *[MISSING if share is None else f"{share:.0%}"] * fitted,
        ])  # fmt: skip
    header = [size, "arm", f"{what}: p50 (p20–p80)", "tokens/s", "× baseline", "rounds", *["quadratic"] * fitted]
    return Table(title, header, lines, [*_notes(kind, rows), *skipped(record, kind, rows)], names=2)


def _notes(kind: str, rows: list[Served]) -> Iterator[str]:
    if kind == "mixed":
        for count, prompts, new in sorted({(row.requests, row.tokens, row.new_tokens) for row in rows}):
            yield f"{count} requests: {prompts:,} tokens of prompts and {new:,} of answers; tokens/s count both."
        yield MIXED
    if sizes := sorted({row.work.size for row in rows if unsteady(row)}):
        yield (
            f"Unsteady, p80 more than {UNSTEADY - 1:.0%} above p20 in some arm: "
            f"{', '.join(f'{size:,}' for size in sizes)}. The host may be the reason: where it starts kernels more "
            "slowly than the GPU computes them, its own load decides. On another host the ratio may differ."
        )


def _against(pair: "tuple[Ratio, float] | None") -> str:
    if pair is None:
        return MISSING
    ratio, base = pair
    kind = "" if ratio.low is not None else f" ({ratio.interval})"
    return f"{_interval(ratio, 3)}{kind} of {base * 1e3:,.2f}"


def _interval(ratio: "Ratio", digits: int) -> str:
    if ratio.low is None:
        return f"{ratio.value:.{digits}f}"
    sign = "*" if ratio.interval == "range" else ""
    return f"{ratio.value:.{digits}f} [{ratio.low:.{digits}f}, {ratio.high:.{digits}f}]{sign}"


def _count(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"
