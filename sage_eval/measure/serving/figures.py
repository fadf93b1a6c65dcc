"""How many times as fast as the baseline, over the size: one panel a kind of work, one line an arm."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sage_eval.measure.serving.summary import Served
from sage_eval.render.figures import LIGHT, Drawing, canvas, legend_columns, strokes
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from sage_eval.statistics.ratio import Ratio

Ratios = Mapping[tuple[str, str], "tuple[Ratio, float]"]
"""By arm and cell: the ratio, and the baseline's median seconds."""
PANELS = {"prefill": "prefill: input tokens", "decode": "decode: sequences"}


def drawings(record: Record[Served], rows: Sequence[Served], ratios: Ratios) -> Iterator[Drawing]:
    """At most one figure."""
    known = [row for row in rows if (row.arm, row.cell) in ratios]
    kinds = [kind for kind in PANELS if len({row.work.size for row in known if row.work.kind == kind}) > 1]
    if not kinds:
        return
    figure, axes = canvas(0.5 + 1.9 * len(kinds), len(kinds))
    names = [name for name in record.arms if any(row.arm == name for row in known)]
    for name, style in zip(names, strokes(record.arms[name].role for name in names), strict=True):
        for ax, kind in zip(axes, kinds, strict=True):
            mine = [row for row in known if (row.arm, row.work.kind) == (name, kind)]
            points = {row.work.size: ratios[name, row.cell][0] for row in mine}
            values = [ratio.value for ratio in points.values()]
            ax.plot(list(points), values, **style, markersize=4, linewidth=1.2, label=name)
            for x, ratio in points.items():
                ends = [ratio.low or ratio.value, ratio.high or ratio.value]
                ax.plot([x, x], ends, color=style["color"], linewidth=1)
    for ax, kind in zip(axes, kinds, strict=True):
        sizes = sorted({row.work.size for row in known if row.work.kind == kind})
        ax.axhline(1, color=LIGHT["muted"], linewidth=0.8)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel(PANELS[kind])
        ax.grid(axis="y", linewidth=0.6)
        ax.set_ylim(top=min(ax.get_ylim()[1], 2 * max(ratios[row.arm, row.cell][0].value for row in known)))
    axes[0].set_title(f"× as fast as {record.baseline}  (faster ↑)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=legend_columns(labels))
    yield Drawing(
        f"{record.kind}-speed",
        f"Speed against {record.baseline}",
        f"The time of {record.baseline} over the arm's: above 1 is faster. Bars are 95 % intervals, or the range "
        "of rounds where they are few; a point without a bar is of fewer than five rounds.",
        figure,
    )
