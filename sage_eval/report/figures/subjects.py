"""Accuracy subject by subject: both arms, and the difference with its interval."""

from collections.abc import Iterator

from sage_eval.render.figures import LIGHT, Drawing, canvas, file_name
from sage_eval.store.comparison import Comparison, TaskComparison
from sage_eval.store.folder import Run

FEWEST = 3


def figures(run: Run) -> Iterator[Drawing]:
    """One figure of all multiple-choice tasks that are no groups, if they are at least three."""
    comparison: Comparison = run.comparison
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    for pair in candidates:
        # Of several metrics the first.
        rows = {row.task: row for row in reversed(pair.tasks) if row.chance is not None and not row.group}
        if len(rows) >= FEWEST:
            ordered = sorted(rows.values(), key=lambda row: (-row.difference.value, row.task), reverse=True)
            yield _draw(ordered, pair.candidate if len(candidates) > 1 else "")


def _draw(rows: list[TaskComparison], candidate: str) -> Drawing:
    figure, [left, right] = canvas(0.175 * len(rows) + 1.1, 1, 2, sharey=True, width_ratios=(1, 1.15))
    words = [row.task.split("_") for row in rows]
    shortest = min(map(len, words)) - 1
    common = next((i for i in range(shortest) if len({w[i] for w in words}) > 1), shortest)
    names = [" ".join(w[common:]) for w in words]
    for chance in {row.chance for row in rows}:  # not `constant`, which differs from subject to subject
        left.axvline(100 * (chance or 0), color=LIGHT["muted"], linestyle=":", linewidth=1, label="chance")
    y = range(len(rows))
    base, cand, difference = ([100 * getattr(row, what).value for row in rows] for what in _COLUMNS)
    left.hlines(y, base, cand, color=LIGHT["muted"], linewidth=1)
    left.plot(base, y, "o", markerfacecolor="none", markersize=5.5, color=LIGHT["baseline"], label="baseline")
    left.plot(cand, y, "o", markersize=3, color=LIGHT["candidate"], label="candidate")
    left.set_yticks(y, [_shorten(name) for name in names])
    left.set_xlabel("accuracy, %")
    right.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    for i, row in enumerate(rows):
        if row.difference.low is not None and row.difference.high is not None:
            right.hlines(i, 100 * row.difference.low, 100 * row.difference.high, LIGHT["candidate"], linewidth=1)
    right.plot(difference, y, "o", markersize=4, color=LIGHT["candidate"])
    right.set_xlabel("difference, pp  (← worse)")
    for ax in (left, right):
        ax.set_ylim(len(rows) - 0.3, -0.7)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", linewidth=0.5)
    handles, labels = left.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=3)
    return Drawing(
        file_name("subjects", candidate) if candidate else "subjects",
        f"Accuracy by subject: {candidate}" if candidate else "Accuracy by subject",
        f"{len(rows)} subjects, the largest loss first. Left: accuracy of both arms; right: candidate − baseline with "
        "its 95 % interval, not corrected for the number of subjects.",
        figure,
    )


_COLUMNS = ("baseline", "candidate", "difference")


def _shorten(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"
