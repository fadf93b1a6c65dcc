"""Time to first token over the request rate, one line an arm."""

from collections.abc import Iterator

from sage_eval.probes.rate.record import Record, label
from sage_eval.probes.rate.summary import summarise
from sage_eval.report.figures.style import MARKERS, Drawing, canvas, colour, dashes, legend_columns

QUANTILES = (("p50", "half of the requests (p50)"), ("p95", "all but 5 % of them (p95)"))


def drawings(record: Record) -> Iterator[Drawing]:
    """At most one figure; to be taken within `style.theme()`. All at once is drawn as twice the highest rate.

    A quantile is drawn where the requests were enough for it, and has no panel where they were so at no rate.
    """
    from matplotlib.ticker import LogLocator

    rows = summarise(record)["rows"]
    finite = [row["rate"] for row in rows if row["rate"] is not None]
    if not finite:
        return
    beyond = 2 * max(finite)
    drawn = [
        (name, title)
        for name, title in QUANTILES
        if any(name in row["ttft"] for row in rows if row["rate"] is not None)
    ]
    figure, axes = canvas(0.4 + 2.4 * len(drawn), len(drawn), sharex=True)
    seen: dict[str, int] = {}
    for name, arm in record.arms.items():
        mine = [row for row in rows if row["arm"] == name]
        if not mine:
            continue
        index = seen[arm.role] = seen.get(arm.role, -1) + 1
        for ax, (quantile, _) in zip(axes, drawn, strict=True):
            known = [row for row in mine if quantile in row["ttft"]]
            ax.plot(
                [row["rate"] or beyond for row in known], [row["ttft"][quantile] * 1e3 for row in known],
                color=colour(arm.role, index), linestyle=dashes(arm.role, index), marker=MARKERS[arm.role],
                markersize=4, linewidth=1.2, label=name,
            )  # fmt: skip
    ticks = {row["rate"] or beyond: label(row["rate"]) for row in rows}
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
    at_low = [f"{row['arm']} {row['ttft']['p50'] * 1e3:,.0f} ms" for row in rows if row["rate"] == low]
    yield Drawing(
        "rate-ttft",
        "Time to first token over the request rate",
        f"Median at {label(low)}: {'; '.join(at_low)}. All at once is drawn as twice the highest rate.",
        figure,
    )
