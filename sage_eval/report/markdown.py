"""`report.md`: a run folder as GitHub-flavoured Markdown, fit for a pull request's description."""

from collections.abc import Iterator

from sage_eval.report import tables
from sage_eval.report.tables import Table
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.folder import Run
from sage_eval.runs.manifest import Manifest


def render(run: Run, *, details: bool = True) -> str:
    """The report as text; without `details` only the tables of tasks, gates and coverage."""
    comparison: Comparison = run.comparison
    return "\n".join(_lines(run.manifest, comparison, details)) + "\n"


def _lines(manifest: Manifest, comparison: Comparison, details: bool) -> Iterator[str]:
    if details:
        yield from (f"# {manifest.model['name']}: {' against '.join(_backends(comparison))}", "")
    for pair in comparison.pairs:
        yield from _table(tables.scores(comparison, pair, members=False))
    yield from _gates(comparison)
    for pair in comparison.pairs:
        for row in tables.top_level(pair):
            for grid in tables.cells(row):
                yield from _table(grid)
            if row.cells:
                yield from (
                    "Found, in per cent, baseline → candidate; in brackets where the baseline is under 80 %.",
                    "",
                )
    yield from _table(tables.coverage(comparison.arms))
    if not details:
        return
    for pair in comparison.pairs:
        members = tables.scores(comparison, pair, members=True)
        if members.rows:
            yield from ("<details><summary>Members of the groups</summary>", "", *_table(members), "</details>", "")
    yield from _how_to_read(manifest)
    yield from _machine(manifest, comparison)


def _backends(comparison: Comparison) -> list[str]:
    first, *others = comparison.arms.values()
    return [*(arm.backend for arm in others), first.backend]


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
        verdict = "passed" if gate.passed else "**failed**"
        yield f"- minimum {gate.task} {gate.metric} = {gate.minimum:g}: {verdict} with {gate.value:.4f}"
    if comparison.gates:
        yield ""


def _how_to_read(manifest: Manifest) -> Iterator[str]:
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
        f"Mode: {manifest.mode}: {mode.get(manifest.mode, '')}.",
        "",
    )


def _machine(manifest: Manifest, comparison: Comparison) -> Iterator[str]:
    devices = ", ".join(f"{d['name']} ({d['memory_gib']} GiB, driver {d['driver']})" for d in manifest.devices)
    host = manifest.host
    seconds = "; ".join(
        f"{name} {arm.seconds.get('start', 0):.0f} + {arm.seconds.get('evaluate', 0):.0f} s"
        for name, arm in comparison.arms.items()
    )
    git = manifest.git
    commit = git["commit"][:12] + " with uncommitted changes" * git["dirty"] if git else "an installed package"
    yield from (
        f"- Device: {devices or 'no GPU'}; {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        f"- Model: {manifest.model['name']}, SHA-256 {manifest.model['sha256'][:16]}…; seed {manifest.seed}",
        f"- Code: {commit}; {manifest.created:%Y-%m-%d %H:%M} UTC; start + evaluation: {seconds}",
        "- Repeat:",
        "",
        "```sh",
        manifest.command,
        "```",
    )
