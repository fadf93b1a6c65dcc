"""The rows of a report as text, shared by every renderer. Accuracies in per cent, perplexities as perplexities."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sage_eval.runs.comparison import ArmPair, ArmSummary, Cell, Comparison, TaskComparison
from sage_eval.statistics.estimate import Estimate

SCORE_HEADER = ("task", "metric", "{baseline}", "{candidate}", "difference", "95 % interval", "flips −/+", "n")
COVERAGE_HEADER = ("arm", "backend", "phase", "kernel", "tokens", "share")
PHASES = {"prefill": "prefill", "prefill_prefix": "prefill with prefix", "decode": "decode"}


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; the first `names` columns are names, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]
    names: int = 2


def scores(comparison: Comparison, pair: ArmPair, *, members: bool) -> Table:
    """The comparison's main table, or with `members` that of the groups' single tasks (MMLU's subjects)."""
    chosen = [row for row in pair.tasks if (row.parent is not None and not row.group) == members]
    backends = {name: comparison.arms[name].backend for name in (pair.baseline, pair.candidate)}
    same = len(set(backends.values())) == 1
    label = {name: f"{backend} ({name})" if same else backend for name, backend in backends.items()}
    if pair.role != "candidate":
        label[pair.candidate] = f"{pair.candidate} ({backends[pair.candidate]})"
    header = tuple(
        text.format(baseline=f"{label[pair.baseline]} ± SE", candidate=f"{label[pair.candidate]} ± SE")
        for text in SCORE_HEADER
    )
    found: dict[str, list[str]] = {}
    for row in chosen:
        for note in row.notes:
            found.setdefault(note, []).append(row.task)
    notes = [f"{', '.join(dict.fromkeys(tasks))}: {note}" for note, tasks in found.items()]
    if not members:
        notes += [f"not compared: {text}" for text in pair.skipped]
    title = f"{label[pair.candidate]} against {label[pair.baseline]}, {comparison.mode} mode"
    return Table(title, header, [_score_row(row, pair) for row in chosen], notes)


def coverage(arms: dict[str, ArmSummary]) -> Table:
    """Prompt and generated tokens by arm, phase and kernel; shares are of the tokens of that arm and phase group."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for name, arm in arms.items():
        counts = arm.engine.get("coverage") or {}
        tokens: dict[str, float] = counts.get("tokens") or {}
        if not tokens:
            notes.append(f"{name}: the engine reported no coverage")
        for key, count in tokens.items():
            phase, _, kernel = key.partition("/")
            total = sum(n for other, n in tokens.items() if other.partition("/")[0] == phase)
            share = f"{100 * count / total:.1f} %" if total else "–"
            rows.append((name, arm.backend, PHASES.get(phase, phase), kernel, f"{count:,.0f}", share))
        if cached := counts.get("cached_tokens"):
            rows.append((name, arm.backend, "prefix cache", "–", f"{cached:,.0f}", "–"))
        if tokens and not counts.get("counted"):
            notes.append(f"{name}: tokens as SGLang reports them; this backend does not count its own")
    return Table("Coverage: which kernel computed the tokens", COVERAGE_HEADER, rows, notes, names=4)


def cells(row: TaskComparison) -> list[Table]:
    """Retrieval grids of a task, one a family: rows are lengths, columns depths, `baseline → candidate` in per cent."""
    tables = []
    for family in dict.fromkeys(cell.family for cell in row.cells):
        mine = [cell for cell in row.cells if cell.family == family]
        depths = sorted({cell.depth for cell in mine}, key=lambda depth: -1.0 if depth is None else depth)
        found = {(cell.length, cell.depth): cell for cell in mine}
        rows = [
            (f"{length:,}", *(_cell(found.get((length, depth))) for depth in depths))
            for length in sorted({cell.length for cell in mine})
        ]
        header = ("length \\ depth", *("any" if d is None else f"{100 * d:.0f} %" for d in depths))
        tables.append(Table(f"{row.task}: {family}", header, rows, [], names=1))
    return tables


def top_level(pair: ArmPair) -> Iterable[TaskComparison]:
    """The rows that belong to no group: what was asked for on the command line."""
    return (row for row in pair.tasks if row.parent is None)


def _score_row(row: TaskComparison, pair: ArmPair) -> tuple[str, ...]:
    flips = f"−{row.flips.lost} / +{row.flips.gained}" if row.flips else "–"
    arrow = "↑" if row.higher_is_better else "↓"
    indent = "– " if row.parent and row.group else ""
    return (
        indent + row.task,
        f"{row.metric} {arrow}",
        _value(row, row.baseline),
        _value(row, row.candidate),
        _difference(row),
        _interval(row),
        flips,
        f"{row.n:,}",
    )


def _is_share(row: TaskComparison) -> bool:
    return row.flips is not None


def _value(row: TaskComparison, estimate: Estimate) -> str:
    value, se = estimate.value, estimate.se
    if row.kind == "log-perplexity":
        # Delta method: SE(exp x) = exp(x) · SE(x).
        value, se = math.exp(value), None if se is None else math.exp(value) * se
    elif _is_share(row):
        value, se = 100 * value, None if se is None else 100 * se
    digits = 2 if _is_share(row) or row.kind == "log-perplexity" else 4
    return f"{value:.{digits}f}" + ("" if se is None else f" ± {se:.{digits}f}")


def _difference(row: TaskComparison) -> str:
    scale, unit, digits = _unit(row)
    value, se = row.difference.value, row.difference.se
    text = f"{scale * value:+.{digits}f}"
    return text + (f" {unit}".rstrip() if se is None else f" ± {scale * se:.{digits}f} {unit}".rstrip())


def _interval(row: TaskComparison) -> str:
    scale, _, digits = _unit(row)
    low, high = row.difference.low, row.difference.high
    if low is None or high is None:
        return row.difference.method.partition(" (")[0]
    return f"[{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"


def _unit(row: TaskComparison) -> tuple[float, str, int]:
    if row.kind == "log-perplexity":
        return 1.0, "ln", 5
    return (100.0, "pp", 2) if _is_share(row) else (1.0, "", 5)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{100 * cell.baseline:.0f} → {100 * cell.candidate:.0f}"
    return text if cell.informative else f"({text})"
