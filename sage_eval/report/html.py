"""`report.html`: a run folder as one page that needs nothing else, and its figures as files.

The page loads nothing: styles and figures stand in it, there is no script, and its content security policy forbids
every request. It is a pure function of the run folder, the same to the byte each time.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_eval.errors import PrerequisiteError
from sage_eval.report import doses, fidelity_table, markdown, tables, verdict
from sage_eval.report.worst import worst
from sage_eval.runs import folder as layout
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.files import write_bytes
from sage_eval.runs.folder import Run

if TYPE_CHECKING:
    from markupsafe import Markup

SIGNS = {"equivalent": "≈", "worse": "▼", "better": "▲", "inconclusive": "?", "not established": "–"}
"""A sign beside each verdict, as colour alone would not reach everyone."""
SECTIONS = {
    "verdict": "Verdict",
    "differences": "Differences to the baseline",
    "scores": "Scores",
    "subjects": "Subjects",
    "retrieval": "Retrieval by length and depth",
    "fidelity": "Next-token distributions",
    "dose": "Dose and response",
    "worst": "Worst items",
    "coverage": "Coverage",
    "reading": "How to read this",
    "manifest": "What was run",
    "repeat": "Repeat it",
}
"""In the page's order."""
_MARKS = ((r"\*\*(.+?)\*\*", "strong"), (r"\*([^\s*](?:[^*]*[^\s*])?)\*", "em"), (r"`(.+?)`", "code"))


@dataclass(frozen=True)
class Page:
    """The page, and its figures as SVG files by name."""

    text: str
    figures: dict[str, str]


def render(run: Run) -> Page:
    """The page of a run that has been compared; what there is no data for is left out."""
    import jinja2

    from sage_eval.report.figures import draw
    from sage_eval.report.figures.style import variables

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sage_eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["marks"] = _marks
    figures = draw(run)
    content = _content(run)
    lines = content["headline"] or content["gates"]
    filled = {**figures, "verdict": lines, "fidelity": content["fidelity"], "worst": content["worst"]}
    text = environment.get_template("report.html").render(
        **content,
        figures=figures,
        sections={name: title for name, title in SECTIONS.items() if filled.get(name, True)},
        colours=variables(":root"),
        signs=SIGNS,
    )
    return Page(text, {f"{svg.name}.svg": svg.alone() for section in figures.values() for svg in section})


def write(run: Run, page: Path | None = None) -> None:
    """Write `report.html` and `figures/` into the run's folder, or only the page, to `page`.

    Figures of an earlier call that the run has no data for any more are removed. `PrerequisiteError` where a file
    cannot be written.
    """
    rendered = render(run)
    if page is not None:
        write_bytes(page, rendered.text.encode())
        return
    folder = run.folder / layout.FIGURES
    for name, text in rendered.figures.items():
        write_bytes(folder / name, text.encode())
    try:
        for old in folder.glob("*.svg"):
            if old.name not in rendered.figures:
                old.unlink()
    except OSError as error:
        raise PrerequisiteError(f"cannot delete {error.filename}: {error.strerror}") from None
    write_bytes(run.folder / layout.HTML, rendered.text.encode())


def writable(folder: Path) -> bool:
    """Whether files can be made in a run folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def _content(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    comparison: Comparison = run.comparison
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    others = [pair for pair in comparison.pairs if pair.role != "candidate"]
    members = [tables.scores(comparison, pair, members=True) for pair in candidates]
    return {
        "title": f"{manifest.model['name']}: {' against '.join(markdown.backends(comparison))}",
        "manifest": manifest,
        "gates": comparison.gates,
        "verdict": comparison.verdict,
        "headline": verdict.headline(comparison),
        "judged": verdict.table(comparison),
        "floors": verdict.floors(comparison),
        "damaged": doses.table(comparison),
        "scores": [tables.scores(comparison, pair, members=False) for pair in candidates],
        "members": [table for table in members if table.rows],
        "calibration": [tables.scores(comparison, pair, members=False) for pair in others],
        "fidelity": list(fidelity_table.tables(run.fidelity)) if run.fidelity else [],
        "worst": worst(run),
        "coverage": tables.coverage(comparison.arms),
        "reading": [line for line in markdown.how_to_read(manifest, comparison) if line],
        "facts": list(markdown.facts(manifest, comparison)),
        "arguments": json.dumps(manifest.arguments, indent=1, ensure_ascii=False),
    }


def _marks(text: str) -> "Markup":
    """The three marks of Markdown that the reports' words use, after everything else was escaped."""
    from markupsafe import Markup, escape

    done = str(escape(text))
    for pattern, tag in _MARKS:
        done = re.sub(pattern, rf"<{tag}>\1</{tag}>", done)
    # Where a cell must break, not within an interval or a p-value.
    done = re.sub(r"\[[^\[\]]{1,40}\]|p (?:=|&lt;) ", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), done)
    return Markup(done)
