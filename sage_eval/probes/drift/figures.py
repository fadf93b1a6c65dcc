"""Layers × metric as SVG: what a layer adds, what has accumulated, and K's outlier channels, which explain it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sage_eval.probes.drift.lines import OTHER, REPEAT, Way
from sage_eval.probes.drift.record import DriftRecord, LayerDrift, Series
from sage_eval.report.figures.style import LIGHT, MARKERS, Drawing, canvas, colour, dashes, log_label, svgs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS: tuple[tuple[str, Callable[[LayerDrift], float]], ...] = (
    ("relative L2", lambda layer: layer.relative_l2),
    ("1 − cosine, mean of tokens", lambda layer: 1 - layer.cosine),
    ("1 − cosine, worst token", lambda layer: 1 - layer.worst_cosine),
)
WAYS: tuple[tuple[Way, str, str], ...] = (
    ("forced", "drift-same-inputs", "Attention output on the baseline's inputs, by layer"),
    ("free", "drift-own-inputs", "Attention output in the arm's own run, by layer"),
)


def figures(record: DriftRecord) -> dict[str, str]:
    """The figures as SVG files, by name."""
    return {svg.name: svg.alone() for svg in svgs(drawings(record))}


def drawings(record: DriftRecord) -> Iterator[Drawing]:
    """Up to three figures; to be taken within `style.theme()`."""
    for way, name, title in WAYS:
        names = [*(arm.name for arm in record.arms[1:]), OTHER, REPEAT]
        # A logarithmic axis has no place for a series that is zero throughout.
        found = [series for series in (record.find(way, arm) for arm in names) if series and series.mean_l2]
        if found:
            yield _draw(record, found, name, title)
    if record.keys:
        yield _keys(record)


def _draw(record: DriftRecord, found: list[Series], name: str, title: str) -> Drawing:
    figure, axes = canvas(5.6, len(METRICS), sharex=True)
    seen: dict[str, int] = {}
    for series in found:
        role = record.role(series.arm)
        index = seen[role] = seen.get(role, -1) + 1
        style = dashes(role, index)
        layers = [layer.layer for layer in series.layers]
        for ax, (_, value) in zip(axes, METRICS, strict=True):
            heights = [value(layer) if value(layer) > 0 else float("nan") for layer in series.layers]
            ax.plot(
                layers, heights, color=colour(role, index), linestyle=style, marker=MARKERS[role], markersize=3,
                linewidth=1.2, label=series.arm,
            )  # fmt: skip
    for ax, (label, _) in zip(axes, METRICS, strict=True):
        _log(ax)
        ax.set_title(label)
    axes[-1].set_xlabel("layer")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=1)
    means = "; ".join(f"{series.arm} {series.mean_l2:.2g}" for series in found)
    return Drawing(name, title, f"Against {record.baseline}. Mean relative L2 over layers: {means}.", figure)


def _keys(record: DriftRecord) -> Drawing:
    figure, axes = canvas(3.6, 2, sharex=True)
    layers = [layer.layer for layer in record.keys]
    for role, label, chosen in (
        ("control", "as it is", [layer.raw for layer in record.keys]),
        ("candidate", "less its mean (smoothed)", [layer.smoothed for layer in record.keys]),
    ):
        for ax, values in zip(axes, ([k.peak for k in chosen], [k.ratio for k in chosen]), strict=True):
            ax.plot(
                layers, values, color=LIGHT[role], linestyle=dashes(role, 0), marker=MARKERS[role], markersize=3,
                linewidth=1.2, label=label,
            )  # fmt: skip
    axes[0].set_title("largest R of K's channels (median over 64-key blocks of the largest |K|)")
    axes[1].set_title("the same over the median channel of its head")
    for ax in axes:
        _log(ax)
    axes[1].set_xlabel("layer")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    before, after = (max(getattr(layer, name).ratio for layer in record.keys) for name in ("raw", "smoothed"))
    return Drawing(
        "drift-keys",
        "K's outlier channels, by layer",
        f"Ratio of the largest channel to the median one, at most {before:.3g} as K is and {after:.3g} smoothed.",
        figure,
    )


def _log(ax: "Axes") -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    narrow = high < 30 * low
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if narrow else log_label(value))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", linewidth=0.6)
    ax.minorticks_off()
