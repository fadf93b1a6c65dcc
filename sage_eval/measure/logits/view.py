"""A record of `probe logits` as text, tables and figures."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sage_eval.measure import fidelity
from sage_eval.measure.base import View
from sage_eval.measure.logits.record import GeneratedText, LogitDistances, Logits, Part
from sage_eval.render.figures import svgs
from sage_eval.render.sections import Folded
from sage_eval.render.table import MISSING, Table
from sage_eval.statistics.estimate import Estimate
from sage_eval.store.fidelity import FidelityRecord
from sage_eval.store.record import Record

READ = (
    "KLD is KL(baseline ‖ arm) of the next-token distribution over the whole vocabulary, in nats; Δp the change of the "
    "true token's probability in percentage points; ΔNLL the change of its negative log-probability, in nats per "
    "token; ± one standard error, clustered by document. An arm that computes the same as the baseline shows the "
    "floor: differences of that size mean nothing."
)
_HEADER = ("mean KLD", "same top", "mean Δp", "RMS Δp", "ΔNLL", "max abs. Δ, nats", "positions")
Found = Mapping[str, LogitDistances]


def view(record: Record[Logits], title: str) -> View:
    """The parts and figures of a page."""
    latest = {row.arm: row for row in record.rows}
    found = {name: row.distances for name, row in latest.items() if row.distances}
    written = {name: row.generated for name, row in latest.items() if row.generated}
    baseline = record.baseline or ""
    whole = FidelityRecord(schema_version=1, baseline=baseline, tasks=[each.fidelity for each in found.values()])
    parts: list[str | Table | Folded] = list(_served(record))
    if found:
        parts += [_by_length(baseline, found), _exactness(record.rows[-1], found), READ]
    parts += [f"**{name} failed:** {arm.error}" for name, arm in record.arms.items() if arm.error]
    if written:
        parts.append(_generated(baseline, written))
    if found:
        worst = [_worst(name, each) for name, each in found.items() if any(place.kld for place in each.worst)]
        parts += [
            Folded("By position", [_by_position(baseline, found)]),
            Folded("All statistics of the distributions", list(fidelity.tables(whole))),
            Folded("Positions with the largest KLD", worst),
        ]
    # A comparison's page may have a text of the same name.
    figures = (replace(drawing, name=f"logits-{drawing.name}") for drawing in fidelity.drawings(whole))
    return View(f"{title}: {record.settings['texts']}", parts, svgs(figures))


def _served(record: Record[Logits]) -> Iterator[str]:
    for row in record.rows[:1]:
        classes = [
            f"{part.prompts} {part.name} prompts ({part.low:,} to {part.high:,} tokens, {part.documents} documents, "
            f"{part.positions:,} positions)"
            for part in row.served.classes
        ]
        yield (
            f"{', '.join(classes)}; {row.served.vocabulary:,} ids at each position; prompts served one at a time; "
            f"seed {record.settings['seed']}. Baseline: {record.baseline}."
        )


def _exactness(row: Logits, found: Found) -> str:
    merged = max(each.merged[1] for each in found.values())
    return (
        f"Log-probabilities are kept in steps of {row.served.resolution:.1e} nats, the true token's and the most "
        f"probable token in full precision; ids under e⁻¹⁶ count as one, which holds at most {100 * merged:.2g} % of "
        "the baseline's probability anywhere; max |Δ| takes them as 16 nats."
    )


def _cells(part: Part) -> tuple[str, ...]:
    return (
        _number(part.kld, "{:.2e}", "{:.1e}"),
        _number(part.same_top, "{:.2f}", "{:.2f}", 100) + " %",
        _number(part.delta_p, "{:+.3f}", "{:.3f}", 100) + " pp",
        _number(part.delta_p_rms, "{:.3f}", "{:.3f}", 100) + " pp",
        _number(part.nll, "{:+.2e}", "{:.1e}"),
        f"{part.largest:.3g}",
        f"{part.positions:,}",
    )


def _by_length(baseline: str, found: Found) -> Table:
    rows = []
    for name, each in found.items():
        everything = Part.of("all", 0, 0, each.fidelity.statistics, each.largest)
        label = name if each.fidelity.role != "floor" else f"{name} (floor)"
        rows += [(label, part.name, *_cells(part)) for part in (everything, *each.by_length)]
    return Table(f"Distributions against {baseline}", ("arm", "prompts", *_HEADER), rows, names=2)


def _by_position(baseline: str, found: Found) -> Table:
    rows = [
        (name, f"{part.low:,}–{part.high - 1:,}", *_cells(part))
        for name, each in found.items()
        for part in each.by_position
    ]
    return Table(f"Against {baseline} by position", ("arm", "tokens of context", *_HEADER), rows, names=2)


def _generated(baseline: str, written: Mapping[str, GeneratedText]) -> Table:
    rows = []
    for name, found in written.items():
        places = sorted(place for place in found.first_difference if place is not None)
        first = f"{places[len(places) // 2]} ({places[0]})" if places else MISSING
        similarity = _number(found.similarity, "{:.2f}", "{:.2f}", 100) + " %"
        rows.append((name, f"{found.prompts - len(places)}/{found.prompts}", similarity, first))
    return Table(
        f"Greedy texts of {max(found.tokens for found in written.values())} tokens against {baseline}'s",
        ("arm", "same tokens", "same characters", "first difference: median (earliest)"),
        rows,
        [
            "The same characters are 1 − Levenshtein distance / length; the first difference is the index of a token, "
            "over the texts that differ. The texts are made in batches, so that a floor need not be zero here.",
        ],
    )


def _worst(name: str, found: LogitDistances) -> Table:
    rows = [
        (
            f"{place.document}", f"{place.context_tokens:,}", f"{place.kld:.2e}", _quote(place.before),
            _quote(place.token), " → ".join(f"{100 * p:.2f} %" for p in place.token_probability),
            " → ".join(map(_quote, dict.fromkeys(place.most_probable))),
        )
        for place in found.worst
        if place.kld > 0
    ]  # fmt: skip
    header = ("document", "context", "KLD, nats", "after", "true token", "its probability", "most probable")
    return Table(name, header, rows, names=0)


def _quote(words: str) -> str:
    # A token may hold anything: in a span of code it is neither Markdown nor HTML.
    return "`" + repr(words).replace("`", "'") + "`"


def _number(estimate: Estimate, form: str, error: str, scale: float = 1.0) -> str:
    if estimate.value == 0 and not estimate.se:
        return "0"
    value = form.format(scale * estimate.value)
    return value if estimate.se is None else f"{value} ± {error.format(scale * estimate.se)}"
