"""`report.md`: a run folder as GitHub-flavoured Markdown, fit for a pull request's description."""

from collections.abc import Iterator, Sequence

from sage_eval.report import doses, fidelity, tables, verdict
from sage_eval.report.sections import Section
from sage_eval.report.sections import markdown as measurements
from sage_eval.report.tables import Table
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.folder import Run
from sage_eval.runs.manifest import Manifest

VERDICTS = (
    "Verdicts: *equivalent*: the 90 % interval lies within the margin (two one-sided tests at 5 %); *worse*, *better*: "
    "significant after Holm's correction over the tasks, and not equivalent; *inconclusive*: neither; "
    "*not established*: the comparison could not have shown it. The floor is an arm that should equal the baseline, "
    "the one farthest from it; the excess is candidate − floor arm, with its 95 % interval; damage on purpose is "
    "*seen* where its loss is significant, at least the margin, and greater than the candidate's."
)


def render(run: Run, sections: Sequence[Section] = (), *, details: bool = True) -> str:
    """The report as text; without `details` only the tables of tasks, gates and coverage.

    `sections` (what else was measured) come last: they have headings, under which the comparison's own parts would
    seem to belong to them.
    """
    comparison: Comparison = run.comparison
    return "\n".join([*_lines(run, comparison, details), *([""] if sections else []), *measurements(sections)]) + "\n"


def _lines(run: Run, comparison: Comparison, details: bool) -> Iterator[str]:
    manifest = run.manifest
    if details:
        yield from (f"# {manifest.model['name']}: {' against '.join(backends(comparison))}", "")
    yield from _verdict(comparison)
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    for pair in candidates:
        yield from _table(tables.scores(comparison, pair, members=False))
    yield from _gates(comparison)
    for pair in candidates:
        for row in tables.top_level(pair):
            for grid in tables.cells(row):
                yield from _table(grid)
            if row.cells:
                yield from (
                    "Found, in per cent, baseline → candidate; in brackets where the baseline is under 80 %.",
                    "",
                )
    if distances := fidelity.table(run.fidelity):
        yield from _table(distances)
    yield from _table(tables.coverage(comparison.arms))
    if not details:
        return
    yield from _calibration(comparison)
    for pair in candidates:
        members = tables.scores(comparison, pair, members=True)
        if members.rows:
            yield from ("<details><summary>Members of the groups</summary>", "", *_table(members), "</details>", "")
    yield from how_to_read(manifest, comparison)
    yield from _machine(manifest, comparison)


def _verdict(comparison: Comparison) -> Iterator[str]:
    for line in verdict.headline(comparison):
        yield from (line, "")
    for found in (verdict.table(comparison), verdict.floors(comparison), doses.table(comparison)):
        if found:
            yield from _table(found)


def _calibration(comparison: Comparison) -> Iterator[str]:
    pairs = [pair for pair in comparison.pairs if pair.role != "candidate"]
    if pairs:
        yield from ("<details><summary>Calibration arms</summary>", "")
        for pair in pairs:
            yield from _table(tables.scores(comparison, pair, members=False))
        yield from ("</details>", "")


def backends(comparison: Comparison) -> list[str]:
    """The backends of the candidate and of the baseline, in this order."""
    names = [pair.candidate for pair in comparison.pairs if pair.role == "candidate"]
    return [comparison.arms[name].backend for name in (*names, comparison.pairs[0].baseline)]


def _table(table: Table) -> Iterator[str]:
    yield from (f"**{table.title}**", "")
    yield _row(table.header)
    yield _row(["---"] * table.names + ["---:"] * (len(table.header) - table.names))
    yield from (_row(row) for row in table.rows)
    yield ""
    if table.notes:
        yield from (*(f"- {note}" for note in table.notes), "")


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _gates(comparison: Comparison) -> Iterator[str]:
    for gate in comparison.gates:
        outcome = "passed" if gate.passed else "**failed**"
        yield f"- minimum {gate.task} {gate.metric} = {gate.minimum:g}: {outcome} with {gate.value:.4f}"
    if comparison.gates:
        yield ""


def how_to_read(manifest: Manifest, comparison: Comparison) -> Iterator[str]:
    """What the numbers, the verdicts and the mode mean: paragraphs with empty lines between them."""
    mode = {
        "fidelity": "every prefill token is computed afresh by the backend under test (no prefix cache, no chunking)",
        "throughput": "the settings a server would use; part of the prompt may come from the prefix cache",
    }
    yield from (
        "How to read this: the same prompts were given to both arms (checked by hash) and the answers paired item by "
        "item. ± is one standard error; the difference is candidate − baseline with the error of the *paired* "
        "difference, for perplexities in natural logarithms (ln); flips count items that only the baseline (−) or only "
        "the candidate (+) got right. An interval that contains zero does not say that the arms are equal.",
        "",
    )
    if verdict.table(comparison):
        yield from (VERDICTS, "")
    yield from (
        f"Mode: {manifest.mode}: {mode.get(manifest.mode, '')}.",
        "",
    )


def facts(manifest: Manifest, comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What was run, on what and by which code: names and texts."""
    devices = ", ".join(f"{d['name']} ({d['memory_gib']} GiB, driver {d['driver']})" for d in manifest.devices)
    host = manifest.host
    seconds = "; ".join(
        f"{name} {arm.seconds.get('start', 0):.0f} + {arm.seconds.get('evaluate', 0):.0f} s"
        for name, arm in comparison.arms.items()
    )
    git = manifest.git
    commit = git["commit"][:12] + " with uncommitted changes" * git["dirty"] if git else "an installed package"
    yield "Device", f"{devices or 'no GPU'}; {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "Model", f"{manifest.model['name']}, SHA-256 {manifest.model['sha256'][:16]}…; seed {manifest.seed}"
    yield "Code", f"{commit}; {manifest.created:%Y-%m-%d %H:%M} UTC; start + evaluation: {seconds}"


def _machine(manifest: Manifest, comparison: Comparison) -> Iterator[str]:
    yield from (f"- {name}: {text}" for name, text in facts(manifest, comparison))
    yield from ("- Repeat:", "", "```sh", manifest.command, "```")
