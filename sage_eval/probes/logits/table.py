"""A record of `probe logits` as text and as a section of a report. Pure functions."""

from collections.abc import Iterator, Sequence

from sage_eval.probes.logits.record import ArmLogits, GeneratedText, LogitDistances, LogitsRecord, Part
from sage_eval.report.fidelity_table import tables
from sage_eval.report.tables import Table
from sage_eval.statistics.estimate import Estimate

READ = (
    "KLD is KL(baseline ‖ arm) of the next-token distribution over the whole vocabulary, in nats; Δp the change of the "
    "true token's probability in percentage points; ΔNLL the change of its negative log-probability, in nats a token; "
    "± one standard error, clustered by document. An arm that computes the same as the baseline shows the floor: "
    "differences of that size mean nothing."
)


def text(record: LogitsRecord) -> str:
    """For a terminal: one table by arm and length class, one of greedy texts."""
    return "\n".join(_section(record, details=False)) + "\n"


def markdown(record: LogitsRecord) -> str:
    """A section of a report, with the positions, llama.cpp's lines and the worst places folded away."""
    return "\n".join(_section(record, details=True)) + "\n"


def _section(record: LogitsRecord, *, details: bool) -> Iterator[str]:
    yield from (f"## Full next-token distributions: {record.texts}", "", _served(record), "")
    compared = record.compared
    if compared:
        yield from _markdown(_by_length(record, compared))
        yield from (_exactness(record, compared), "", READ, "")
    for arm in record.arms:
        if arm.error:
            yield from (f"**{arm.name} failed:** {arm.error}", "")
    if written := [(name, arm.generated) for name, arm, _ in compared if arm.generated]:
        yield from _markdown(_generated(record, written))
    if details and compared:
        yield from _folded("By position", [_by_position(record, compared)])
        yield from _folded("All statistics of the distributions", list(tables(record.fidelity)))
        yield from _folded(
            "Positions with the largest KLD",
            [_worst(name, found) for name, _, found in compared if any(p.kld for p in found.worst)],
        )


def _served(record: LogitsRecord) -> str:
    parts = [
        f"{part.prompts} {part.name} prompts ({part.low:,} to {part.high:,} tokens, {part.documents} documents, "
        f"{part.positions:,} positions)"
        for part in record.classes
    ]
    return (
        f"{', '.join(parts)}; {record.vocabulary:,} ids at each position; prompts served one at a time; "
        f"seed {record.seed}. Baseline: {record.baseline}."
    )


def _exactness(record: LogitsRecord, compared: Sequence[tuple[str, ArmLogits, LogitDistances]]) -> str:
    merged = max(found.merged[1] for _, _, found in compared)
    return (
        f"Log-probabilities are kept in steps of {record.resolution:.1e} nats, the true token's and the most probable "
        f"token in full precision; ids under e⁻¹⁶ count as one, which holds at most {100 * merged:.2g} % of the "
        "baseline's probability anywhere; max |Δ| takes them as 16 nats."
    )


_HEADER = ("mean KLD", "same top", "mean Δp", "RMS Δp", "ΔNLL", "max abs. Δ, nats", "positions")


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


def _by_length(record: LogitsRecord, compared: Sequence[tuple[str, ArmLogits, LogitDistances]]) -> Table:
    rows = []
    for name, _, found in compared:
        whole = found.fidelity.statistics
        everything = Part(
            name="all", low=0, high=0, positions=whole.positions, kld=whole.kld, same_top=whole.same_top,
            delta_p=whole.delta_p, delta_p_rms=whole.delta_p_rms, nll=whole.log_perplexity, largest=found.largest,
        )  # fmt: skip
        label = name if found.fidelity.role != "floor" else f"{name} (floor)"
        rows += [(label, part.name, *_cells(part)) for part in (everything, *found.by_length)]
    title = f"Distributions against {record.baseline}"
    return Table(title, ("arm", "prompts", *_HEADER), rows, [], names=2)


def _by_position(record: LogitsRecord, compared: Sequence[tuple[str, ArmLogits, LogitDistances]]) -> Table:
    rows = [
        (name, f"{part.low:,}–{part.high - 1:,}", *_cells(part))
        for name, _, found in compared
        for part in found.by_position
    ]
    return Table(f"Against {record.baseline} by position", ("arm", "tokens of context", *_HEADER), rows, [], names=2)


def _generated(record: LogitsRecord, written: Sequence[tuple[str, GeneratedText]]) -> Table:
    rows: list[tuple[str, ...]] = []
    for name, found in written:
        places = sorted(place for place in found.first_difference if place is not None)
        first = f"{places[len(places) // 2]} ({places[0]})" if places else "–"
        similarity = _number(found.similarity, "{:.2f}", "{:.2f}", 100) + " %"
        exact = f"{sum(place is None for place in found.first_difference)}/{found.prompts}"
        rows.append((name, exact, similarity, first))
    tokens = max(found.tokens for _, found in written)
    return Table(
        f"Greedy texts of {tokens} tokens against {record.baseline}'s",
        ("arm", "same tokens", "same characters", "first difference: median (earliest)"),
        rows,
        [
            "The same characters are 1 − Levenshtein distance / length; the first difference is the index of a token, "
            "over the texts that differ. The texts are made in batches, so that a floor need not be zero here.",
        ],
        names=1,
    )


def _worst(name: str, found: LogitDistances) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            f"{place.document}", f"{place.context_tokens:,}", f"{place.kld:.2e}", _quote(place.before),
            _quote(place.token), " → ".join(f"{100 * p:.2f} %" for p in place.token_probability),
            " → ".join(map(_quote, dict.fromkeys(place.most_probable))),
        )
        for place in found.worst
        if place.kld > 0
    ]  # fmt: skip
    header = ("document", "context", "KLD, nats", "after", "true token", "its probability", "most probable")
    return Table(name, header, rows, [], names=0)


def _quote(words: str) -> str:
    # A token may hold anything: in a span of code it is neither Markdown nor HTML.
    return "`" + repr(words).replace("`", "'") + "`"


def _number(estimate: Estimate, form: str, error: str, scale: float = 1.0) -> str:
    if estimate.value == 0 and not estimate.se:
        return "0"
    value = form.format(scale * estimate.value)
    return value if estimate.se is None else f"{value} ± {error.format(scale * estimate.se)}"


def _folded(title: str, parts: Sequence[Table]) -> Iterator[str]:
    yield from (f"<details><summary>{title}</summary>", "")
    for part in parts:
        yield from _markdown(part)
    yield from ("</details>", "")


def _markdown(table: Table) -> Iterator[str]:
    yield from (f"**{table.title}**", "")
    yield _line(table.header)
    yield _line(["---"] * table.names + ["--:"] * (len(table.header) - table.names))
    yield from map(_line, table.rows)
    yield ""
    if table.notes:
        yield from (*(f"- {note}" for note in table.notes), "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
