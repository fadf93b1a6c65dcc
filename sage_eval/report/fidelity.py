"""Token-level fidelity as one table: how far each arm's next-token distributions are from the baseline's."""

from sage_eval.measure.fidelity import band_name
from sage_eval.render.table import MISSING, Table
from sage_eval.statistics.estimate import Estimate
from sage_eval.store.fidelity import FidelityRecord, TaskFidelity

HEADER = (
    "task", "arm", "role", "mean KLD ± SE", "99.9 % KLD", "median KLD", "same top", "mean Δp", "RMS Δp",
    "perplexity ratio", "tokens",
)  # fmt: skip


def table(record: FidelityRecord | None) -> Table | None:
    """One row per task and arm, the candidate's first; None where nothing was measured."""
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
    title = f"Token-level fidelity against {record.baseline}"
    return Table(title, HEADER, list(map(_row, rows)), notes, names=3, wide=("role", "median KLD", "mean Δp"))


def by_context(record: FidelityRecord) -> Table | None:
    """KL divergence by tokens of context, one row per task and arm; None where no text is longer than one band."""
    found = [task for task in record.tasks if task.kl_by_position]
    bands = sorted({(band.low, band.high) for task in found for band in task.kl_by_position})
    if len(bands) < 2:
        return None
    rows = []
    for task in found:
        cells = {band.low: _band(band.difference) for band in task.kl_by_position}
        rows.append((task.task, task.arm, *(cells.get(low, MISSING) for low, _ in bands)))
    header = ("task", "arm", *(band_name(low, high) for low, high in bands))
    notes = ["mean KLD in nats with its 95 % interval, clustered by document"]
    return Table("KL divergence by tokens of context", header, rows, notes, names=2)


def _band(estimate: Estimate) -> str:
    if estimate.value == 0 or estimate.low is None or estimate.high is None:
        return _kld(estimate)
    return f"{estimate.value:.2e} [{estimate.low:.2e}, {estimate.high:.2e}]"


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
