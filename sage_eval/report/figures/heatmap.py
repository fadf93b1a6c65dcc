"""Retrieval by length and depth: baseline, candidate and their difference, one figure a family."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from sage_eval.render.figures import LIGHT, POINTS, Drawing, canvas, file_name
from sage_eval.store.comparison import Cell, Comparison
from sage_eval.store.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRONGEST = 0.5
"""Opacity of the strongest colour: the number in the cell stays readable on light and on dark."""


def figures(run: Run) -> Iterator[Drawing]:
    """A figure for every family of the candidate's retrieval tasks that are not members of another."""
    comparison: Comparison = run.comparison
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    for pair in candidates:
        for row in pair.tasks:
            if row.parent is not None:
                continue
            name = row.task if len(candidates) == 1 else f"{row.task} ({pair.candidate})"
            for family in dict.fromkeys(cell.family for cell in row.cells):
                yield _draw(name, family, [cell for cell in row.cells if cell.family == family])


def _draw(task: str, family: str, cells: Sequence[Cell]) -> Drawing:
    lengths = sorted({cell.length for cell in cells})
    depths = sorted({cell.depth for cell in cells}, key=lambda depth: -1.0 if depth is None else depth)
    panels: list[tuple[str, Callable[[Cell], float]]] = [
        ("baseline, % found", lambda cell: cell.baseline),
        ("candidate, % found", lambda cell: cell.candidate),
        ("difference, pp", lambda cell: cell.candidate - cell.baseline),
    ]
    figure, axes = canvas(3 * (0.27 * len(lengths) + 0.38) + 0.75, 3, 1)
    for ax, (title, value) in zip(axes, panels, strict=True):
        for cell in cells:
            _square(ax, depths.index(cell.depth), lengths.index(cell.length), value(cell), cell, title)
        ax.set_xlim(0, len(depths))
        ax.set_ylim(len(lengths), 0)
        ax.set_yticks([i + 0.5 for i in range(len(lengths))], [f"{length:,}" for length in lengths])
        ax.set_xticks([i + 0.5 for i in range(len(depths))], ["any" if d is None else f"{100 * d:.0f}" for d in depths])
        ax.tick_params(length=0, labelbottom=ax is axes[-1])
        ax.spines[:].set_visible(False)
        ax.set_title(title)
    axes[1].set_ylabel("length, tokens")
    axes[-1].set_xlabel("depth of the needle, %")
    figure.suptitle(f"{task}: {family}", fontweight="bold", x=0.02, ha="left", fontsize=POINTS)
    return Drawing(
        file_name("retrieval", task, family),
        f"Retrieval, {task}: {family}",
        "Share of needles found by length (rows) and depth (columns): baseline, candidate, difference. Losses are "
        "framed; in brackets where the baseline is under 80 %.",
        figure,
    )


def _square(ax: "Axes", x: int, y: int, value: float, cell: Cell, title: str) -> None:
    from matplotlib.patches import Rectangle

    signed = title.startswith("difference")
    colour = LIGHT["control" if signed and value < 0 else "candidate"]
    box = (x + 0.03, y + 0.05), 0.94, 0.9
    ax.add_patch(Rectangle(*box, facecolor=LIGHT["muted"], alpha=0.08, linewidth=0))
    if value:
        ax.add_patch(Rectangle(*box, facecolor=colour, alpha=STRONGEST * min(1.0, abs(value)), linewidth=0))
    if signed and value < 0:
        ax.add_patch(Rectangle(*box, fill=False, edgecolor=colour, linewidth=1.2))
    text = f"{100 * value:+.0f}" if signed and value else f"{100 * value:.0f}"
    ax.text(x + 0.5, y + 0.5, text if cell.informative else f"({text})", ha="center", va="center", fontsize=8)
