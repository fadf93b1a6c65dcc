"""How many times as fast each model answers a task as lm-eval's own: while it scores, and with its start."""

from collections.abc import Iterator, Mapping, Sequence

from sage_eval.measure.scoring.rows import Part
from sage_eval.render.figures import LIGHT, Drawing, beside, canvas, legend_columns
from sage_eval.store.record import Record

Ratios = Mapping[str, Mapping[str, float]]
"""By model and task."""


def drawings(record: Record[Part], stock: str, panels: Mapping[str, Ratios], tasks: Sequence[str]) -> Iterator[Drawing]:
    """At most one figure: a panel for each title, in which `stock` is the line at 1."""
    from matplotlib.ticker import LogLocator

    names = [name for name in record.arms if name != stock and any(name in panel for panel in panels.values())]
    if not names:
        return
    figure, axes = canvas(0.5 + len(panels) * (0.5 + 0.12 * len(tasks) * (len(names) + 1)), len(panels), sharex=True)
    roles = [record.arms[name].role for name in names]
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        ax.set_xscale("log")
        ax.axvline(1, color=LIGHT["muted"], linewidth=0.8)
        beside(ax, tasks, {name: panel[name] for name in names}, roles, start=1)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.minorticks_off()
        ax.set_title(title)
    axes[-1].set_xlabel(f"× as fast as {stock}  (faster →)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=legend_columns(labels))
    yield Drawing(
        "scoring-speed",
        f"Speed of evaluations beside lm-eval's {stock}",
        f"Items per second over those of {stock}, on the same tasks and weights: right of the line is faster.",
        figure,
    )
