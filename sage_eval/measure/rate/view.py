"""A record of request rates as people see it: limits, throughput, latency, and what the numbers mean."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sage_eval.measure import facts
from sage_eval.measure.base import View
from sage_eval.measure.rate.plan import NEAR, label
from sage_eval.measure.rate.summary import ENOUGH, GROWTH, LATENCIES, Limit, Run, Summary, limit, summarise
from sage_eval.render.figures import Drawing, canvas, legend_columns, strokes, svgs
from sage_eval.render.sections import Folded, Part
from sage_eval.render.table import MISSING, Table
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from sage_eval.statistics.ratio import Ratio

QUANTILES = (("p50", "half of the requests (p50)"), ("p95", "all but 5 % of them (p95)"))
_KEPT_UP = {True: "yes", False: "no", None: MISSING}


def view(record: Record[Run]) -> View:
    """The whole record."""
    found = summarise(record)
    limits = [_limit(arm, limit([one for one in found if one.arm == arm])) for arm in record.arms]
    parts: list[Part] = [*facts.head(record), "### Limits\n\n" + "\n".join(filter(None, limits))]
    parts += [_throughput(found), _latency(found), _notes(record, found), *_commands(record)]
    name = record.provenance.model.get("name")
    return View(f"Request rates: {name}", [part for part in parts if part], svgs(_drawings(record, found)))


def _limit(arm: str, found: Limit) -> str:
    parts = []
    if found.done is not None:
        parts.append(f"all at once, {found.done:.3g} requests/s ({found.input_rate:,.0f} input tokens/s)")
    if found.kept_up is not None:
        parts.append(f"kept up with {label(found.kept_up)}")
    if found.undecided:
        parts.append(f"undecided at {', '.join(map(label, found.undecided))}")
    if found.fell_behind is not None:
        parts.append(f"fell behind at {label(found.fell_behind)}")
    return f"- `{arm}`: {'; '.join(parts)}" if parts else ""


def _throughput(found: Sequence[Summary]) -> Table:
    header = (
        "asked", "arm", "requests", "repeats", "sent/s", "TTFT growth, ms/s", "kept up", "done/s", "input tokens/s",
        "output tokens/s",
    )  # fmt: skip
    rows = [
        (
            label(one.rate), f"`{one.arm}`", f"{one.requests:,}", str(one.repeats),
            MISSING if one.sent is None else f"{one.sent:.3g}",
            MISSING if one.growth is None else f"{one.growth * 1e3:+.0f}",
            _KEPT_UP[one.kept_up], f"{one.done:.3g}", f"{one.input_rate:,.0f}", f"{one.output_rate:,.0f}",
        )
        for one in found
    ]  # fmt: skip
    return Table("Throughput", header, rows, names=2)


def _latency(found: Sequence[Summary]) -> Table:
    header = (
        "asked", "arm", "repeats", "TTFT p50", "p95", "p99", "mean", "× baseline",
        "ITL p50", "p95", "mean", "end to end p50", "p95", "mean",
    )  # fmt: skip
    rows = [
        (
            label(one.rate), f"`{one.arm}`", str(one.repeats), *_times(one.ttft, "p50", "p95", "p99", "mean"),
            _ratio(one.ratio), *_times(one.itl, "p50", "p95", "mean"), *_times(one.latency, "p50", "p95", "mean"),
        )
        for one in found
    ]  # fmt: skip
    return Table("Latency, ms", header, rows, names=2)


def _times(found: dict[str, float], *names: str) -> list[str]:
    return [f"{found[name] * 1e3:,.1f}" if name in found else MISSING for name in names]


def _ratio(found: "Ratio | None") -> str:
    if found is None:
        return MISSING
    if found.interval == "confidence":
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    if found.interval == "range":
        return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f} in {found.rounds} repeats)"
    return f"{found.value:.3f} ({found.interval.replace('round', 'repeat')}, no interval)"


def _notes(record: Record[Run], found: Sequence[Summary]) -> str:
    late = max((one.late for one in found), default=0.0)
    lines = [
        "Measured over HTTP by SGLang's own load generator (`sglang.bench_serving`): streamed answers, prompts of "
        "random token ids, gaps between requests of a Poisson process; *all at once* sends everything at the "
        "beginning. All arms were sent the same requests with the same gaps, one arm after the other. Tokens become "
        "text by a tokenizer with a word for every id, so that each can be timed, whatever the weights.",
        _warm_up(record),
        "*Sent* is what was really sent: the Poisson process, with a seed whose gaps come near to the rate asked for, "
        "and what the load generator was late. *TTFT growth* is that from the middle third of a run's requests to the "
        "last: a server that is asked for a tenth more than it can do lets requests wait 100 ms longer with every "
        f"second. An arm *kept up* where this is at most {GROWTH * 1e3:.0f} ms/s and the run lasted at least "
        f"{LATENCIES} median latencies. It did not where growth is clearly more, from the first third on. Otherwise "
        f"({MISSING}) the run is too short to say, or the load generator was late by over {NEAR * 100:g} % of the time "
        "in which it sent, so that less than the rate was sent. The worst repeat counts. *Done* is all requests over "
        "all the time, the last answer's included, so it is less than *sent* even with a fast server.",
        "Quantiles are of the requests of all repeats, those between tokens (ITL) the median of the repeats; p95 needs "
        f"{ENOUGH['p95']} values, p99 {ENOUGH['p99']}. × baseline is the baseline's median time to first token over "
        "the arm's, with the least and the greatest of the repeats where servers were up together and took turns, or, "
        "in brackets and of many repeats, an interval of 95 %. Requests of one run wait for each other, so they give "
        "no interval. A request that fails, or is answered with fewer tokens than asked for, fails its arm.",
        f"The load generator was at most {max(0.0, late):.2f} s late at the end of a run.",
    ]
    lines += [facts.clocks(state for row in record.rows for state in row.gpu), *facts.coverage(record)]
    return "\n\n".join(lines)


def _warm_up(record: Record[Run]) -> str:
    first = "Each server warmed up with as many requests at once as run together"
    if (seconds := record.settings.get("rehearsal")) is None:
        return f"{first}, and with nothing else: what it did for the first time later on is part of what was measured."
    freeze = (
        f"{first}. Then it was told to leave the objects of its start out of garbage collection (`/freeze_gc`), as a "
        "full collection halts a server."
    )
    if not seconds:
        return freeze
    return (
        f"{freeze} Before its first measured run at a rate it answered {seconds:g} s of other requests at that rate, "
        "if two or more come in that time; of all at once, up to twice as many as run together."
    )


def _commands(record: Record[Run]) -> list[Part]:
    found = [f"    {arm.command}" for arm in record.arms.values() if arm.command]
    return [Folded("The same servers by hand", found)] if found else []


def _drawings(record: Record[Run], found: Sequence[Summary]) -> Iterator[Drawing]:
    """Time to first token over the rate, a panel for each quantile that the requests were enough for.

    All at once is drawn as twice the highest rate.
    """
    from matplotlib.ticker import LogLocator

    finite = [row.rate for row in found if row.rate is not None]
    if not finite:
        return
    beyond = 2 * max(finite)
    drawn = [
        (name, title) for name, title in QUANTILES if any(name in row.ttft for row in found if row.rate is not None)
    ]
    figure, axes = canvas(0.4 + 2.4 * len(drawn), len(drawn), sharex=True)
    arms = [name for name in record.arms if any(row.arm == name for row in found)]
    for name, style in zip(arms, strokes(record.arms[name].role for name in arms), strict=True):
        for ax, (quantile, _) in zip(axes, drawn, strict=True):
            known = [row for row in found if row.arm == name and quantile in row.ttft]
            ttft = [row.ttft[quantile] * 1e3 for row in known]
            ax.plot([row.rate or beyond for row in known], ttft, **style, markersize=4, linewidth=1.2, label=name)
    ticks = {row.rate or beyond: label(row.rate) for row in found}
    for ax, (_, title) in zip(axes, drawn, strict=True):
        ax.set_title(f"time to first token, ms: {title}")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.5g}")
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.minorticks_off()
        ax.grid(axis="y", linewidth=0.6)
    axes[-1].set_xlabel("requests a second, as asked for")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=legend_columns(names))
    low = min(finite)
    at_low = [f"{row.arm} {row.ttft['p50'] * 1e3:,.0f} ms" for row in found if row.rate == low]
    yield Drawing(
        "rate-ttft",
        "Time to first token over the request rate",
        f"Median at {label(low)}: {'; '.join(at_low)}. All at once is drawn as twice the highest rate.",
        figure,
    )
