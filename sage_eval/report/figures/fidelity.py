"""How far the next-token distributions are apart: the spread of KLD, and the loss against the position."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sage_eval.report.figures.style import (
    LIGHT,
    MARKERS,
    POINTS,
    Drawing,
    canvas,
    colour,
    dashes,
    file_name,
    legend_columns,
    log_label,
)
from sage_eval.runs.fidelity import FidelityRecord, TaskFidelity
from sage_eval.runs.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = 8


def figures(run: Run) -> Iterator[Drawing]:
    """For each task with top-k lists the distribution of KLD, then the difference of NLL by position."""
    record: FidelityRecord | None = run.fidelity
    if record is not None:
        yield from drawings(record)


def drawings(record: FidelityRecord) -> Iterator[Drawing]:
    """The same of a record by itself."""
    for task in dict.fromkeys(entry.task for entry in record.tasks):
        # Stress is a matter of dose, which is shown elsewhere.
        arms = [entry for entry in record.tasks if entry.task == task and entry.role != "stress"]
        yield from _divergence(task, arms)
        yield from _position(task, arms)


def _divergence(task: str, arms: Sequence[TaskFidelity]) -> Iterator[Drawing]:
    silent = [arm.arm for arm in arms if not sum(arm.kld_histogram.counts)]
    arms = [arm for arm in arms if arm.arm not in silent]
    if not arms:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, [ax] = canvas(2.9)
    for arm, line, ink in _lines(arms):
        histogram = arm.kld_histogram
        total = sum(histogram.counts) + histogram.below
        shares = [100 * count / total for count in histogram.counts]
        label = f"{arm.arm} ({100 * histogram.below / total:.3g} % below the axis)" if histogram.below else arm.arm
        ax.stairs(shares, histogram.edges, color=ink, linestyle=line, linewidth=1.6, label=label)
        if arm.role == "candidate":
            ax.stairs(shares, histogram.edges, color=ink, alpha=0.15, fill=True)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=TICKS))
    ax.xaxis.set_major_formatter(FuncFormatter(log_label))
    ax.xaxis.set_minor_formatter(NullFormatter())
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
    panels = [
        group
        for group in (
            [arm for arm in arms if arm.role in ("candidate", "floor")],
            [arm for arm in arms if arm.role == "control"],
        )
        if group
    ]
    if not panels:
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
    for index, (arm, line, ink) in enumerate(_lines(arms)):
        # Side by side within a bin, so that intervals do not hide one another.
        shift = 0.5 + 0.7 * ((index + 0.5) / len(arms) - 0.5)
        for i, part in enumerate(arm.by_position):
            if part.difference.low is not None and part.difference.high is not None:
                ends = [part.difference.low, part.difference.high]
                ax.plot([i + shift] * 2, ends, color=ink, linewidth=1.1)
        ax.plot(
            [i + shift for i in range(len(arm.by_position))],
            [part.difference.value for part in arm.by_position],
            marker=MARKERS[arm.role], markersize=4, linestyle=line, linewidth=1, color=ink, label=arm.arm,
        )  # fmt: skip
    edges = [f"{part.low:,}" for part in bins] + [f"{bins[-1].high:,}"]
    step = -(-len(edges) // TICKS)
    ax.set_xticks(range(0, len(edges), step), edges[::step])
    ax.set_xlim(0, len(bins))
    columns = legend_columns([arm.arm for arm in arms])
    ax.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)


def _lines(arms: Sequence[TaskFidelity]) -> Iterator[tuple[TaskFidelity, object, str]]:
    """Each arm with its line and colour: arms of one role differ by them."""
    seen: dict[str, int] = {}
    for arm in arms:
        index = seen[arm.role] = seen.get(arm.role, -1) + 1
        yield arm, dashes(arm.role, index), colour(arm.role, index)
