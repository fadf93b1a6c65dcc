"""Differences to the baseline, task by task: candidate, floors and controls against the margin."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sage_eval.render.figures import LIGHT, MARKERS, POINTS, Drawing, canvas
from sage_eval.report.verdict import LOSSES
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.verdict import GRAVEST_FIRST
from sage_eval.store.comparison import Comparison, TaskComparison, TaskVerdict
from sage_eval.store.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 12
"""Tasks in the figure; of more, those with the gravest verdicts."""
NEAR = 3.0
"""A control this many times farther out than all else is named at the edge: to show it would squash the rest."""
WIDEST = 26
"""Characters of an arm's name in a line: a longer one is broken, so that it leaves the axis its width."""
GRAVITY = GRAVEST_FIRST

Row = tuple[str, str, Estimate]


def figures(run: Run) -> Iterator[Drawing]:
    """One figure with a panel a judged task; none for runs without a verdict."""
    comparison: Comparison = run.comparison
    judged = [task for task in comparison.verdict.tasks if task.interval] if comparison.verdict else []
    if not judged:
        return
    shown = sorted(judged, key=lambda task: GRAVITY.index(task.verdict))[:MOST] if len(judged) > MOST else judged
    calibrated = comparison.verdict is not None and len(comparison.verdict.missing) < 2
    panels = [(task, *_rows(comparison, task)) for task in shown]
    heights = [sum(name.count("\n") + 1 for name in _names(rows)) + 2.9 for _, _, rows in panels]
    figure, axes = canvas(0.205 * sum(heights) + 0.2, len(panels), height_ratios=heights)
    for ax, (task, row, rows) in zip(axes, panels, strict=True):
        _panel(ax, task, row, rows, task.verdict if calibrated or task.verdict in LOSSES else "no verdict")
    note = f" The {MOST} gravest of {len(judged)} tasks." if len(judged) > MOST else ""
    yield Drawing(
        "differences",
        "Differences to the baseline",
        "Shaded: the margin of equivalence. Thick line: the interval held against it; thin line: the 95 % interval. A "
        "number at the edge is that of an arm too far out to be drawn to scale." + note,
        figure,
    )


def _rows(comparison: Comparison, task: TaskVerdict) -> tuple[TaskComparison, list[Row]]:
    found = {
        pair.candidate: (pair.role, row)
        for pair in comparison.pairs
        if pair.role != "candidate" or pair.candidate == task.candidate
        for row in pair.tasks
        if (row.task, row.metric) == (task.task, task.metric)
    }
    candidate = next(row for role, row in found.values() if role == "candidate")
    roles = ("candidate", "floor", "control")
    rows: list[Row] = [(name, role, row.difference) for name, (role, row) in found.items() if role in roles]
    return candidate, sorted(rows, key=lambda row: roles.index(row[1]))


def _names(rows: list[Row]) -> list[str]:
    names = [name if role in (name, "control") else f"{name} ({role})" for name, role, _ in rows]
    return [textwrap.fill(name, WIDEST) for name in names]


def _panel(ax: "Axes", task: TaskVerdict, row: TaskComparison, rows: list[Row], word: str) -> None:
    names = _names(rows)
    lines = [name.count("\n") + 1 for name in names]
    places = [sum(lines[:i]) + (count - 1) / 2 for i, count in enumerate(lines)]
    margin, scale = task.scale * (task.margin or 0.0), task.scale
    limit = _limit(task, rows)
    ax.axvspan(-margin, margin, color=LIGHT["muted"], alpha=0.14, linewidth=0)
    ax.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    for y, (_, role, estimate) in zip(places, rows, strict=True):
        colour, x = LIGHT[role], scale * estimate.value
        if abs(x) > limit:
            side = 1 if x > 0 else -1
            text = f"{x:+.3g} ▸" if side > 0 else f"◂ {x:+.3g}"
            ax.text(side * limit, y, text, color=colour, ha="right" if side > 0 else "left", va="center")
            continue
        if estimate.low is not None and estimate.high is not None:
            ax.plot([scale * estimate.low, scale * estimate.high], [y, y], color=colour, linewidth=1.2)
        if role == "candidate" and task.interval and task.interval.low is not None and task.interval.high is not None:
            ends = [scale * task.interval.low, scale * task.interval.high]
            ax.plot(ends, [y, y], color=colour, linewidth=3.6, solid_capstyle="butt")
        ax.plot([x], [y], MARKERS[role], color=colour, markersize=5.5)
    ax.set_xlim(-1.04 * limit, 1.04 * limit)
    ax.set_ylim(sum(lines) - 0.4, -0.6)
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title(task.task, fontweight="bold")
    ax.set_title(word, loc="right", fontsize=POINTS)
    worse = "← worse" if row.higher_is_better else "worse →"
    ax.set_xlabel(f"difference in {_quantity(task)}  ({worse})")


def _quantity(task: TaskVerdict) -> str:
    name = str(task.metric)
    return f"{'ln ' * name.endswith('perplexity')}{name}, {task.unit}".rstrip(", ")


def _limit(task: TaskVerdict, rows: list[Row]) -> float:
    """Half the width of the axis: the margin and what is near it, a control only where that leaves room for them."""
    reach = {"near": [1.5 * (task.margin or 0.0)], "control": [0.0]}
    for _, role, estimate in rows:
        ends = [abs(end) for end in (estimate.value, estimate.low, estimate.high) if end is not None]
        reach["control" if role == "control" else "near"].append(1.1 * max(ends))
    near, far = max(reach["near"]), max(reach["control"])
    return task.scale * (max(near, far) if far <= NEAR * near else near) or 1.0
