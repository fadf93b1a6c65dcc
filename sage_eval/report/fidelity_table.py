"""`fidelity.json` as a table: the lines that llama.cpp's perplexity tool prints, a column an arm."""

from collections.abc import Callable, Iterator

from sage_eval.report.tables import Table
from sage_eval.runs.fidelity import FidelityRecord
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.fidelity import DELTA_P_PERCENTILES, KLD_PERCENTILES, Fidelity

Line = tuple[str, Callable[[Fidelity], Estimate], float, str]
_EDGES = {100.0: "maximum", 0.0: "minimum", 50.0: "median"}


def tables(record: FidelityRecord) -> Iterator[Table]:
    """One table a task: each value ± SE, in the units that the line names."""
    for task in dict.fromkeys(entry.task for entry in record.tasks):
        arms = [entry for entry in record.tasks if entry.task == task]
        rows = [
            (name, *(_value(get(arm.statistics), scale, form) for arm in arms)) for name, get, scale, form in _lines()
        ]
        counts: dict[str, list[str]] = {}
        for arm in arms:
            size = f"{arm.statistics.positions:,} token positions in {arm.statistics.documents:,} documents"
            counts.setdefault(f"{size}; KLD: {arm.statistics.note}", []).append(arm.arm)
        notes = ["± is one standard error, clustered by document", *(f"{', '.join(n)}: {t}" for t, n in counts.items())]
        header = (f"against {record.baseline}", *(arm.arm for arm in arms))
        yield Table(f"{task}: next-token distributions", header, rows, notes, names=1)


def _lines() -> Iterator[Line]:
    yield "perplexity ratio", lambda f: f.perplexity_ratio, 1.0, ".6f"
    yield "ln perplexity ratio", lambda f: f.log_perplexity, 1.0, "+.6f"
    yield "mean KLD, nats", lambda f: f.kld, 1.0, ".3g"
    for percent in KLD_PERCENTILES:
        yield f"{_name(percent)} KLD, nats", lambda f, at=percent: f.kld_percentiles[at], 1.0, ".3g"  # type: ignore[misc]
    yield "mean Δp, %", lambda f: f.delta_p, 100.0, "+.4f"
    for percent in DELTA_P_PERCENTILES:
        yield f"{_name(percent)} Δp, %", lambda f, at=percent: f.delta_p_percentiles[at], 100.0, "+.4f"  # type: ignore[misc]
    yield "RMS Δp, %", lambda f: f.delta_p_rms, 100.0, ".4f"
    yield "same top token, %", lambda f: f.same_top, 100.0, ".3f"


def _name(percent: float) -> str:
    return _EDGES.get(percent, f"{percent:g} %")


def _value(estimate: Estimate, scale: float, form: str) -> str:
    text = f"{scale * estimate.value:{form}}"
    return text if estimate.se is None else f"{text} ± {scale * estimate.se:{form.replace('+', '')}}"
