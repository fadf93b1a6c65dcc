"""How far each way of serving moves an arm's log-probabilities, and how far the arm is from the baseline."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sage_eval.render.figures import Drawing, beside, canvas, legend_columns
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from sage_eval.measure.determinism.instrument import Ways


def drawings(record: "Record[Ways]", latest: "Mapping[str, Ways]") -> Iterator[Drawing]:
    """At most one figure: none where no arm's log-probabilities move."""
    apart = f"other kernel: from {record.baseline}"
    moved = {
        name: {way.way: way.mean for way in row.ways} | ({} if row.error is None else {apart: row.error})
        for name, row in latest.items()
    }
    if not any(mean for ways in moved.values() for mean in ways.values()):
        return
    groups = list(dict.fromkeys(way for ways in moved.values() for way in ways))
    figure, [ax] = canvas(0.9 + 0.12 * len(groups) * (len(moved) + 1))
    beside(ax, groups, moved, [record.arms[name].role for name in moved], start=0)
    ax.set_title("mean absolute difference of log-probabilities, nats")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=legend_columns(labels))
    yield Drawing(
        "determinism-ways",
        "What a way of serving changes",
        "Against the same prompt alone and in one piece. What the baseline's ways change is the floor beside which the "
        "distance of another kernel from it stands.",
        figure,
    )
