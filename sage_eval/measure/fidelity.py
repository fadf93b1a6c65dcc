"""How far next-token distributions are apart, of whole vocabularies and of top-k lists alike.

The table has the lines that llama.cpp's perplexity tool prints, one column per arm; the figures show the spread of KLD,
and the loss against the position.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from sage_eval.render.figures import (
    LIGHT,
    POINTS,
    Drawing,
    canvas,
    file_name,
    legend_columns,
    log_label,
    strokes,
)
from sage_eval.render.table import Table
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.fidelity import DELTA_P_PERCENTILES, KLD_PERCENTILES, Fidelity
from sage_eval.store.fidelity import FidelityRecord, TaskFidelity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

TICKS = 8
Line = tuple[str, Callable[[Fidelity], Estimate], float, str]
_EDGES = {100.0: "maximum", 0.0: "minimum", 50.0: "median"}


def tables(record: FidelityRecord) -> Iterator[Table]:
    """One table per task: each value ± SE, in the units that the line names."""
    for task in dict.fromkeys(entry.task for entry in record.tasks):
        arms = [entry for entry in record.tasks if entry.task == task]
        rows = [
            (name, *(_value(get(arm.statistics), scale, form) for arm in arms)) for name, get, scale, form in _lines()
        ]
        counts: dict[str, list[str]] = {}
        for arm in arms:
            size = f"{arm.statistics.positions:,} token positions in {arm.statistics.documents:,} documents"
            counts.setdefault(f"{size}; KLD: {arm.statistics.note}", []).append(arm.arm)
        notes = ["± is one standard error, clustered by document", *(f"{', '.join(n)}: {t}" for t, n in counts.items())]
        header = (f"against {record.baseline}", *(arm.arm for arm in arms))
        yield Table(f"{task}: next-token distributions", header, rows, notes)


def _lines() -> Iterator[Line]:
    yield "perplexity ratio", lambda f: f.perplexity_ratio, 1.0, ".6f"
    yield "ln perplexity ratio", lambda f: f.log_perplexity, 1.0, "+.3g"
    yield "mean KLD, nats", lambda f: f.kld, 1.0, ".3g"
    for percent in KLD_PERCENTILES:
        yield f"{_name(percent)} KLD, nats", lambda f, at=percent: f.kld_percentiles[at], 1.0, ".3g"  # type: ignore[misc]
    yield "mean Δp, %", lambda f: f.delta_p, 100.0, "+.3g"
    for percent in DELTA_P_PERCENTILES:
        yield f"{_name(percent)} Δp, %", lambda f, at=percent: f.delta_p_percentiles[at], 100.0, "+.3g"  # type: ignore[misc]
    yield "RMS Δp, %", lambda f: f.delta_p_rms, 100.0, ".3g"
    yield "same top token, %", lambda f: f.same_top, 100.0, ".3f"


def _name(percent: float) -> str:
    return _EDGES.get(percent, f"{percent:g} %")


def _value(estimate: Estimate, scale: float, form: str) -> str:
    text = f"{scale * estimate.value:{form}}" if estimate.value else "0"
    return text if not estimate.se else f"{text} ± {scale * estimate.se:{form.replace('+', '').replace('3g', '2g')}}"


def drawings(record: FidelityRecord) -> Iterator[Drawing]:
    """For each task the distribution of KLD, then it and the difference of NLL by position."""
    for task in dict.fromkeys(entry.task for entry in record.tasks):
        # Stress is a matter of dose, which is shown elsewhere.
        arms = [entry for entry in record.tasks if entry.task == task and entry.role != "stress"]
        yield from _divergence(task, arms)
        yield from _bands(task, arms)
        yield from _position(task, arms)


def band_name(low: int, high: int) -> str:
    """Tokens of context from `low` to under `high`."""
    short = [str(edge) if edge < 1_024 else f"{edge // 1_024}k" for edge in (low, high)]
    return f"{short[0]}+" if high >= 1 << 30 else "–".join(short)


def _bands(task: str, arms: Sequence[TaskFidelity]) -> Iterator[Drawing]:
    arms = [arm for arm in arms if len(arm.kl_by_position) > 1 and arm.statistics.kld.value > 0]
    if not arms:
        return
    figure, [ax] = canvas(2.7)
    bins = sorted({(band.low, band.high) for arm in arms for band in arm.kl_by_position})
    for index, (arm, style) in enumerate(zip(arms, strokes(arm.role for arm in arms), strict=True)):
        shift = 0.5 + 0.7 * ((index + 0.5) / len(arms) - 0.5)
        places = [bins.index((band.low, band.high)) + shift for band in arm.kl_by_position]
        for x, band in zip(places, arm.kl_by_position, strict=True):
            if band.difference.low is not None and band.difference.high is not None:
                ax.plot(
                    [x] * 2, [max(band.difference.low, 1e-9), band.difference.high], color=style["color"], linewidth=1.1
                )
        ax.plot(
            places, [band.difference.value for band in arm.kl_by_position],
            **style, markersize=4, linewidth=1, label=arm.arm,
        )  # fmt: skip
    _logarithmic(ax.yaxis, ax.set_yscale)
    ax.set_xticks([i + 0.5 for i in range(len(bins))], [band_name(*edges) for edges in bins])
    ax.set_title(f"KL divergence by context: {task}", fontweight="bold")
    ax.set_xlabel("tokens of context")
    ax.set_ylabel("mean KLD, nats")
    figure.legend(loc="outside lower left", ncols=legend_columns([arm.arm for arm in arms]))
    yield Drawing(
        file_name("kld-context", task), f"KLD by context: {task}",
        "Mean KL divergence against the baseline by the number of tokens in front, with 95 % intervals.",
        figure,
    )  # fmt: skip


def _logarithmic(axis: "Axis", scale: Callable[[str], None]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scale("log")
    axis.set_major_locator(LogLocator(numticks=TICKS))
    axis.set_major_formatter(FuncFormatter(log_label))
    axis.set_minor_formatter(NullFormatter())


def _divergence(task: str, arms: Sequence[TaskFidelity]) -> Iterator[Drawing]:
    silent = [arm.arm for arm in arms if not sum(arm.kld_histogram.counts)]
    arms = [arm for arm in arms if arm.arm not in silent]
    if not arms:
        return
    figure, [ax] = canvas(2.9)
    for arm, style in zip(arms, strokes(arm.role for arm in arms), strict=True):
        histogram = arm.kld_histogram
        total = sum(histogram.counts) + histogram.below
        shares = [100 * count / total for count in histogram.counts]
        label = f"{arm.arm} ({100 * histogram.below / total:.3g} % below the axis)" if histogram.below else arm.arm
        ax.stairs(
            shares, histogram.edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.6, label=label
        )
        if arm.role == "candidate":
            ax.stairs(shares, histogram.edges, color=style["color"], alpha=0.15, fill=True)
    _logarithmic(ax.xaxis, ax.set_xscale)
    filled = [
        edge
        for arm in arms
        for i, count in enumerate(arm.kld_histogram.counts)
        for edge in arm.kld_histogram.edges[i : i + 2]
        if count and edge > 0
    ]
    ax.set_xlim(min(filled), max(filled))
    ax.set_ylim(bottom=0)
    ax.set_title(f"KL divergence of the next token: {task}", fontweight="bold")
    ax.set_xlabel("KLD against the baseline, nats")
    ax.set_ylabel("token positions, %")
    figure.legend(loc="outside lower left", ncols=legend_columns(ax.get_legend_handles_labels()[1]))
    below = f" All positions of {', '.join(silent)} are below the axis." if silent else ""
    bound = "" if all(arm.statistics.exact for arm in arms) else " Lower bounds, from top-k lists."
    means = "; ".join(f"{arm.arm} {arm.statistics.kld.value:.3g} nats" for arm in arms)
    yield Drawing(
        file_name("kld", task), f"Distribution of KLD: {task}",
        f"Share of token positions by KLD against the baseline, logarithmic axis. Means: {means}.{below}{bound}",
        figure,
    )  # fmt: skip


def _position(task: str, arms: Sequence[TaskFidelity]) -> Iterator[Drawing]:
    arms = [arm for arm in arms if arm.by_position]
    # Apart, as a control's loss would flatten everything else.
    groups = [[arm for arm in arms if arm.role in roles] for roles in (("candidate", "floor"), ("control",))]
    if not (panels := list(filter(None, groups))):
        return
    figure, axes = canvas(2.3 * len(panels) + 0.2, len(panels))
    for ax, group in zip(axes, panels, strict=True):
        _curves(ax, group)
        ax.set_ylabel("NLL difference,\nnats a token")
    figure.suptitle(f"Loss by position: {task}", fontweight="bold", x=0.02, ha="left", fontsize=POINTS)
    axes[-1].set_xlabel("tokens of context (bins)")
    yield Drawing(
        file_name("position", task), f"NLL difference by position: {task}",
        "Arm − baseline in nats a token, with 95 % intervals, by the number of tokens in front; above zero is worse.",
        figure,
    )  # fmt: skip


def _curves(ax: "Axes", arms: Sequence[TaskFidelity]) -> None:
    ax.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    bins = arms[0].by_position
    for index, (arm, style) in enumerate(zip(arms, strokes(arm.role for arm in arms), strict=True)):
        # Side by side within a bin, so that intervals do not hide one another.
        shift = 0.5 + 0.7 * ((index + 0.5) / len(arms) - 0.5)
        for i, part in enumerate(arm.by_position):
            if part.difference.low is not None and part.difference.high is not None:
                ends = [part.difference.low, part.difference.high]
                ax.plot([i + shift] * 2, ends, color=style["color"], linewidth=1.1)
        ax.plot(
            [i + shift for i in range(len(arm.by_position))],
            [part.difference.value for part in arm.by_position],
            **style, markersize=4, linewidth=1, label=arm.arm,
        )  # fmt: skip
    edges = [f"{part.low:,}" for part in bins] + [f"{bins[-1].high:,}"]
    step = -(-len(edges) // TICKS)
    ax.set_xticks(range(0, len(edges), step), edges[::step])
    ax.set_xlim(0, len(bins))
    columns = legend_columns([arm.arm for arm in arms])
    ax.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
