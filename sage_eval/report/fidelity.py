"""Token-level fidelity as a table: how far each arm's next-token distributions are from the baseline's."""

from dataclasses import replace

from sage_eval.report.tables import Table
from sage_eval.runs.fidelity import FidelityRecord, TaskFidelity
from sage_eval.statistics.estimate import Estimate

HEADER = (
    "task", "arm", "role", "mean KLD ± SE", "99.9 % KLD", "median KLD", "same top", "mean Δp", "RMS Δp",
    "perplexity ratio", "tokens",
)  # fmt: skip


def table(record: FidelityRecord | None) -> Table | None:
    """A row a task and arm, the candidate's first; None where nothing was measured."""
    if record is None or not record.tasks:
        return None
    names = list(dict.fromkeys(task.task for task in record.tasks))
    rows = sorted(record.tasks, key=lambda task: (names.index(task.task), task.role != "candidate"))
    notes = [
        "KLD is KL(baseline ‖ arm) of the next-token distributions, in nats; Δp the change of the true token's "
        "probability, in percentage points; ± one standard error, clustered by document"
    ]
    if ks := sorted({task.k for task in rows if not task.statistics.exact}):
        share = min(task.statistics.common_mass.value for task in rows if not task.statistics.exact)
        notes.append(
            f"KLD is a lower bound: of the distributions only the top {', '.join(map(str, ks))} tokens are known; "
            f"those known in both arms hold at least {100 * share:.1f} % of the baseline's probability on average"
        )
    if few := list(dict.fromkeys(task.task for task in rows if task.statistics.kld.se is None)):
        notes.append(f"{', '.join(few)}: too few documents for a standard error")
    return Table(f"Token-level fidelity against {record.baseline}", HEADER, list(map(_row, rows)), notes, names=3)


def narrow(full: Table) -> Table:
    """The table without the columns that a terminal has no room for: the role, the median and the mean Δp."""
    dropped = {HEADER.index(name) for name in ("role", "median KLD", "mean Δp")}
    header, *rows = (
        tuple(cell for place, cell in enumerate(row) if place not in dropped) for row in (full.header, *full.rows)
    )
    return replace(full, header=header, rows=rows, names=2)


def _row(task: TaskFidelity) -> tuple[str, ...]:
    found = task.statistics
    return (
        task.task,
        task.arm,
        task.role,
        _kld(found.kld),
        _kld(found.kld_percentiles[99.9], se=False),
        _kld(found.kld_percentiles[50.0], se=False),
        _percent(found.same_top, "{:.2f}", " %"),
        _percent(found.delta_p, "{:+.3f}", " pp"),
        _percent(found.delta_p_rms, "{:.3f}", " pp"),
        _with_se(found.perplexity_ratio, "{:.5f}"),
        f"{found.positions:,}",
    )


def _kld(estimate: Estimate, *, se: bool = True) -> str:
    if estimate.value == 0:
        return "0"
    error = f" ± {estimate.se:.1e}" if se and estimate.se is not None else ""
    return f"{estimate.value:.2e}{error}"


def _percent(estimate: Estimate, form: str, unit: str) -> str:
    error = "" if estimate.se is None else " ± " + form.replace("+", "").format(100 * estimate.se)
    return form.format(100 * estimate.value) + error + unit


def _with_se(estimate: Estimate, form: str) -> str:
    return form.format(estimate.value) + ("" if estimate.se is None else " ± " + form.format(estimate.se))
