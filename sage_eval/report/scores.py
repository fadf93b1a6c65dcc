"""Scores, retrieval and coverage as tables. Accuracies in per cent, perplexities as perplexities."""

import math
from collections.abc import Iterable, Sequence

from sage_eval.render.table import MISSING, Table
from sage_eval.statistics.estimate import Estimate
from sage_eval.store.comparison import ArmPair, ArmSummary, Cell, Comparison, TaskComparison

SCORE_HEADER = ("task", "metric", "{baseline}", "{candidate}", "difference", "95 % interval", "flips −/+", "n")
COVERAGE_HEADER = ("arm", "backend", "phase", "kernel", "tokens", "share")
PHASES = {"prefill": "prefill", "prefill_prefix": "prefill with prefix", "decode": "decode"}


def scores(comparison: Comparison, pairs: Sequence[ArmPair], *, members: bool) -> Table:
    """The comparison's main table, or with `members` that of the groups' single tasks (MMLU's subjects).

    One row per task and metric; of several pairs, which have one baseline and one role, one for each of them.
    """
    label = _labels(comparison, pairs)
    several = len(pairs) > 1
    columns = {name: f"{label[getattr(pairs[0], name)]} ± SE" for name in ("baseline", "candidate")}
    if several:
        columns["candidate"] = "candidate ± SE"
    header = [text.format(**columns) for text in SCORE_HEADER]
    chosen = [
        (pair, row)
        for pair in pairs
        for row in pair.tasks
        if (row.parent is not None and not row.group) == members and row.kind != "kl"  # shown with the distributions
    ]
    order = {(row.task, row.metric): place for place, (_, row) in reversed([*enumerate(chosen)])}
    chosen.sort(key=lambda entry: order[entry[1].task, entry[1].metric])
    rows = [_score_row(row) for _, row in chosen]
    if several:
        header.insert(2, "candidate")
        rows = [(*row[:2], pair.candidate, *row[2:]) for (pair, _), row in zip(chosen, rows, strict=True)]
    found: dict[str, list[str]] = {}
    for pair, row in chosen:
        for note in row.notes:
            found.setdefault(note, []).append(f"{row.task} ({pair.candidate})" if several else row.task)
    notes = [f"{', '.join(dict.fromkeys(tasks))}: {note}" for note, tasks in found.items()]
    if not members:
        notes += dict.fromkeys(f"not compared: {text}" for pair in pairs for text in pair.skipped)
    against = " and ".join(label[pair.candidate] for pair in pairs)
    title = f"{against} against {label[pairs[0].baseline]}, {comparison.mode} mode"
    return Table(title, header, rows, notes, names=2 + several)


def _labels(comparison: Comparison, pairs: Sequence[ArmPair]) -> dict[str, str]:
    """The names of arms in a table: their backends, where that tells them apart."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.baseline, pair.candidate)))
    backends = {name: comparison.arms[name].backend for name in names}
    same = len(set(backends.values())) < len(names)
    label = {name: f"{backend} ({name})" if same else backend for name, backend in backends.items()}
    for pair in pairs:
        if len(pairs) > 1:
            label[pair.candidate] = pair.candidate
        elif pair.role != "candidate":
            label[pair.candidate] = f"{pair.candidate} ({backends[pair.candidate]})"
    return label


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
            share = f"{100 * count / total:.1f} %" if total else MISSING
            rows.append((name, arm.backend, PHASES.get(phase, phase), kernel, f"{count:,.0f}", share))
        if cached := counts.get("cached_tokens"):
            rows.append((name, arm.backend, "prefix cache", MISSING, f"{cached:,.0f}", MISSING))
        if tokens and not counts.get("counted"):
            notes.append(f"{name}: tokens as SGLang reports them; this backend does not count its own")
    return Table("Coverage: which kernel computed the tokens", COVERAGE_HEADER, rows, notes, names=4)


def cells(row: TaskComparison, candidate: str = "") -> list[Table]:
    """Retrieval grids of a task, one per family: lengths by depths, `baseline → candidate` in per cent.

    The title names the `candidate`, where it is given.
    """
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
        tables.append(Table(f"{row.task}: {family}" + f" ({candidate})" * bool(candidate), header, rows))
    return tables


def top_level(pair: ArmPair) -> Iterable[TaskComparison]:
    """The rows that belong to no group: what was asked for on the command line."""
    return (row for row in pair.tasks if row.parent is None)


def _score_row(row: TaskComparison) -> tuple[str, ...]:
    flips = f"−{row.flips.lost} / +{row.flips.gained}" if row.flips else MISSING
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
    if row.identical or (row.flips and row.flips.lost == row.flips.gained == 0):
        return f"0 {unit} (no item differs)".replace("0  ", "0 ")
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
        return MISSING
    text = f"{100 * cell.baseline:.0f} → {100 * cell.candidate:.0f}"
    return text if cell.informative else f"({text})"
