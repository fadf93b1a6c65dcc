"""The sections of a comparison's report: a pure function of a run that has been judged."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sage_eval.measure import fidelity as distances
from sage_eval.render.figures import Svg
from sage_eval.render.sections import Folded, Part, Report, Section, brief
from sage_eval.render.text import code, escape
from sage_eval.report import doses, fidelity, scores, servers, verdict
from sage_eval.report.worst import folded, worst
from sage_eval.store.comparison import Comparison, Gate
from sage_eval.store.folder import Run
from sage_eval.store.manifest import Manifest

VERDICTS = (
    "Verdicts: *equivalent*: the 90 % interval lies within the margin (two one-sided tests at 5 %); *blunt*: the "
    "smallest damage seen is more than two margins; *worse*: the loss is beyond the margin; *loss found*: a loss is "
    "significant, but whether it exceeds the margin is not settled; *better*: a gain is significant; *inconclusive*: "
    "none of these; *not established*: the comparison could not have shown it. Tests are at 5 % after Holm's "
    "correction over the tasks: without it, each task more would be one more chance of a false alarm."
)
TERMS = (
    "*Arm*: an attention backend with its settings. *Floor*: the difference of an arm that should equal the baseline, "
    "the one farthest from it. *Excess*: candidate − floor arm, with its 95 % interval. *Damaged arms*: the candidate "
    "made worse on purpose, by a *control* or by *doses* of outlier stress (×); damage is *seen* where its loss is "
    "significant and greater than the candidate's. *Blunt*: the smallest damage seen is more than two margins."
)

KLD = (
    "TASK KLD is the KL divergence beyond that of the floor arm, a lower bound where only the most probable tokens are "
    "known. A gain of perplexity is *better* only if the divergence lies within its margin."
)

HOW_TO_READ = (
    "The same prompts were given to both arms (checked by hash) and the answers paired item by item. ± is one standard "
    "error; the difference is candidate − baseline with the error of the *paired* difference, for perplexities in "
    "natural logarithms (ln); flips count items that only the baseline (−) or only the candidate (+) got right. An "
    "interval that contains zero does not say that the arms are equal."
)
MODES = {
    "fidelity": "every prefill token is computed afresh by the backend under test (no prefix cache, no chunking)",
    "throughput": "the settings a server would use; part of the prompt may come from the prefix cache",
}
GRIDS = "Found, in per cent, baseline → candidate; in brackets where the baseline is under 80 %."
WORST = (
    "The {} largest losses of the candidate, the worst of each task in turn. They are chosen for being extreme: some "
    "such items exist between any two arms."
)
BRIEF = ("verdict", "scores", "retrieval", "fidelity", "servers", "coverage")
"""What a terminal shows."""


def report(run: Run, measured: Sequence[Section] = (), figures: Mapping[str, list[Svg]] | None = None) -> Report:
    """The whole report, with `measured`, what probes and benchmarks left in the folder, in it; `figures` as drawn."""
    from sage_eval.report.figures import draw

    manifest = run.manifest
    about = f"{manifest.mode} mode, {manifest.created:%Y-%m-%d}, seed {manifest.seed}, made with sage-eval "
    *tested, against = backends(run.comparison)
    arms = " and ".join(tested) if len(tested) < 3 else f"{len(tested)} candidates"
    title = f"{short(manifest.model['name'])}: {arms} against {against}"
    return Report(
        title,
        sections(run, draw(run) if figures is None else figures, measured),
        about + manifest.versions.get("sage-eval", ""),
    )


def sections(run: Run, figures: Mapping[str, list[Svg]], measured: Sequence[Section] = ()) -> list[Section]:
    """The sections in their order; what there is no data for is left out."""
    manifest, comparison = run.manifest, run.comparison
    items = worst(run)
    reading = [HOW_TO_READ, *([VERDICTS] if verdict.table(comparison) else [])]
    if comparison.verdict and any(task.metric == "kl_divergence" for task in comparison.verdict.tasks):
        reading.append(KLD)
    reading.append(f"Mode: {manifest.mode}: {MODES.get(manifest.mode, '')}.")
    settings = Folded("All settings", [code(json.dumps(manifest.arguments, indent=1, ensure_ascii=False), "json")])
    about = "\n".join(f"- {name}: {text}" for name, text in facts(manifest, comparison))
    shown = [
        Section("verdict", "Verdict", [*_verdict(comparison), *verdict.looks(run.looks)]),
        Section("differences", "Differences to the baseline"),
        Section("scores", "Scores", list(_scores(comparison))),
        Section("subjects", "Subjects"),
        Section("retrieval", "Retrieval by length and depth", list(_retrieval(comparison))),
        Section("fidelity", "Next-token distributions", list(_fidelity(run))),
        Section("servers", "Servers", list(servers.parts(run))),
        Section("dose", "Dose and response"),
        *measured,
        Section("worst", "Worst items", [WORST.format(len(items)), *folded(items)] if items else [], page_only=True),
        Section("coverage", "Coverage", [scores.coverage(comparison.arms)]),
        Section("reading", "How to read this", reading),
        Section("manifest", "What was run", [about, settings]),
        Section("repeat", "Repeat it", [code(manifest.command, "sh")]),
    ]
    drawn = [replace(part, figures=[*part.figures, *figures.get(part.name, [])]) for part in shown]
    return [part for part in drawn if part.parts or part.figures]


def brief_sections(run: Run) -> list[Section]:
    """The sections for a terminal, without figures and what is folded away."""
    return brief([part for part in sections(run, {}) if part.name in BRIEF])


def _gate(gate: Gate) -> str:
    task = gate.task if gate.candidate == "candidate" else f"{gate.task} ({gate.candidate})"
    if gate.value is None:
        return f"- minimum {task} = {gate.minimum:g}: **failed**, as none of its metrics could be compared"
    outcome = "passed" if gate.passed else "**failed**"
    return f"- minimum {task} {gate.metric} = {gate.minimum:g}: {outcome} with {gate.value:.4f}"


def _verdict(comparison: Comparison) -> Iterator[Part]:
    yield from verdict.headline(comparison)
    if comparison.gates:
        yield "\n".join(map(_gate, comparison.gates))
    tables = (verdict.table(comparison), verdict.floors(comparison), doses.table(comparison))
    if any(tables):
        yield TERMS
    yield from (found for found in tables if found)


def _scores(comparison: Comparison) -> Iterator[Part]:
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    others = [pair for pair in comparison.pairs if pair.role != "candidate"]
    yield scores.scores(comparison, candidates, members=False)
    members = scores.scores(comparison, candidates, members=True)
    if members.rows:
        yield Folded("Members of the groups", [members])
    if others:
        yield Folded("Calibration arms", [scores.scores(comparison, [pair], members=False) for pair in others])


def _retrieval(comparison: Comparison) -> Iterator[Part]:
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    rows = [(pair, row) for pair in candidates for row in scores.top_level(pair) if row.cells]
    for pair, row in rows:
        yield from scores.cells(row, pair.candidate if len(candidates) > 1 else "")
    if rows:
        yield GRIDS


def _fidelity(run: Run) -> Iterator[Part]:
    if run.fidelity and (found := fidelity.table(run.fidelity)):
        yield found
        if bands := fidelity.by_context(run.fidelity):
            yield bands
        yield Folded("All statistics", list(distances.tables(run.fidelity)))


def backends(comparison: Comparison) -> list[str]:
    """The backends of the candidate and of the baseline, in this order; several candidates by their names."""
    names = [pair.candidate for pair in comparison.pairs if pair.role == "candidate"]
    tested = names if len(names) > 1 else [comparison.arms[name].backend for name in names]
    return [*tested, comparison.arms[comparison.pairs[0].baseline].backend]


def short(model: str) -> str:
    """A hub name as it is, of a folder's path the last part."""
    path = Path(model)
    return model if len(path.parts) < 3 and not model.startswith((".", "~", "/")) else path.name


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
    yield (
        "Device",
        f"{escape(devices) or 'no GPU'}; {escape(str(host['cpu']))}, {host['cores']} cores, {host['memory_gib']} GiB",
    )
    yield "Versions", escape(", ".join(f"{name} {version}" for name, version in manifest.versions.items()))
    yield "Model", f"{escape(manifest.model['name'])}, SHA-256 {manifest.model['sha256'][:16]}…; seed {manifest.seed}"
    yield "Code", f"{commit}; {manifest.created:%Y-%m-%d %H:%M} UTC; start + evaluation: {seconds}"
