"""Outlier stress: how much damage it takes before a task shows it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage_eval.engine.options import SAGE
from sage_eval.render.figures import LIGHT, MARKERS, Drawing, canvas
from sage_eval.statistics.estimate import Estimate
from sage_eval.store.comparison import Comparison, TaskVerdict
from sage_eval.store.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """A judged task's difference to the baseline by dose, and the candidate's own at dose 1."""

    task: TaskVerdict
    higher_is_better: bool
    candidate: Estimate

    @property
    def doses(self) -> dict[int, Estimate]:
        """Differences by dose, ascending."""
        return {dose.dose: dose.difference for dose in self.task.doses}

    @property
    def limit(self) -> int | None:
        """The detection limit: the smallest dose that is seen, with all larger ones."""
        return self.task.detection_limit


def curves(comparison: Comparison) -> list[Curve]:
    """A curve for every judged task that was put under stress."""
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    # Of several the one that was put under stress (`compare.calibration`).
    ours = (pair for pair in candidates if comparison.arms[pair.candidate].backend.partition("+")[0] == SAGE)
    candidate = next(ours, candidates[0])
    rows = {(row.task, row.metric): row for row in candidate.tasks}
    tasks = comparison.verdict.tasks if comparison.verdict else []
    stressed = [task for task in tasks if task.doses and task.candidate == candidate.candidate]
    found = [(task, rows.get((task.task, task.metric or ""))) for task in stressed]
    return [Curve(task, row.higher_is_better, row.difference) for task, row in found if row]


def figures(run: Run) -> Iterator[Drawing]:
    """One figure with a panel a judged task."""
    found = curves(run.comparison)
    if not found:
        return
    figure, axes = canvas(2.0 * len(found) + 0.4, len(found))
    for ax, curve in zip(axes, found, strict=True):
        _panel(ax, curve)
    axes[-1].set_xlabel("dose: scale of the stressed K channels (1: the candidate itself)")
    limits = "; ".join(f"{c.task.task} {'not seen' if c.limit is None else f'from {c.limit:g}'}" for c in found)
    yield Drawing(
        "dose-response",
        "Dose and response under outlier stress",
        "Difference to the baseline with its 95 % interval by the scale of the stressed channels; shaded: the margin; "
        f"the vertical line is the detection limit. First seen: {limits}.",
        figure,
    )


def _panel(ax: "Axes", curve: Curve) -> None:
    scale, margin = curve.task.scale, curve.task.scale * (curve.task.margin or 0.0)
    ax.axhspan(-margin, margin, color=LIGHT["muted"], alpha=0.14, linewidth=0)
    ax.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    doses = dict(sorted(({1: curve.candidate} | curve.doses).items()))
    ax.plot(list(doses), [scale * e.value for e in doses.values()], color=LIGHT["stress"], linewidth=1.2)
    for dose, effect in doses.items():
        role = "stress" if dose in curve.doses else "candidate"
        if effect.low is not None and effect.high is not None:
            ax.plot([dose] * 2, [scale * effect.low, scale * effect.high], color=LIGHT[role], linewidth=1.4)
        ax.plot([dose], [scale * effect.value], MARKERS[role], color=LIGHT[role], markersize=5.5)
    if curve.limit is not None:
        ax.axvline(curve.limit, color=LIGHT["muted"], linestyle=":", linewidth=1.2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(doses), [f"{dose:g}" for dose in doses])
    ax.minorticks_off()
    ax.set_title(curve.task.task, fontweight="bold")
    ax.set_title("not seen" if curve.limit is None else f"seen from {curve.limit:g}", loc="right")
    worse = "worse ↓" if curve.higher_is_better else "worse ↑"
    ax.set_ylabel(f"{curve.task.metric}, {curve.task.unit}\n({worse})")
