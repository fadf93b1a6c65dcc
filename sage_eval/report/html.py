"""`report.html`: a run folder as one page that needs nothing else, and its figures as files.

The page loads nothing: styles and figures stand in it, there is no script, and its content security policy forbids
every request. It is a pure function of the run folder, the same to the byte each time.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_eval.errors import PrerequisiteError
from sage_eval.report import doses, fidelity_table, markdown, tables, verdict
from sage_eval.report.figures.style import Svg, variables
from sage_eval.report.sections import Section
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
BEFORE = "dose"
"""What probes and benchmarks measured comes after this one."""
_MARKS = ((r"\*\*(.+?)\*\*", "strong"), (r"\*([^\s*](?:[^*]*[^\s*])?)\*", "em"), (r"`(.+?)`", "code"))


@dataclass(frozen=True)
class Page:
    """The page, and its figures as SVG files by name."""

    text: str
    figures: dict[str, str]


def render(run: Run, sections: Sequence[Section] = ()) -> Page:
    """The page of a run that has been compared, with `sections` (what else was measured) in it.

    What there is no data for is left out.
    """
    from sage_eval.report.figures import draw

    figures = draw(run)
    content = _content(run)
    lines = content["headline"] or content["gates"]
    filled = {**figures, "verdict": lines, "fidelity": content["fidelity"], "worst": content["worst"]}
    contents: dict[str, str] = {}
    for name, title in SECTIONS.items():
        if filled.get(name, True):
            contents[name] = title
        if name == BEFORE:
            contents |= {part.name: part.title for part in sections}
    drawn = [svg for part in figures.values() for svg in part]
    return _page("report.html", contents, sections, drawn, **content, figures=figures, signs=SIGNS)


def render_sections(title: str, sections: Sequence[Section]) -> Page:
    """The page of a folder that holds no comparison."""
    return _page("measurements.html", {part.name: part.title for part in sections}, sections, title=title)


def _page(
    template: str, contents: dict[str, str], sections: Sequence[Section], drawn: Sequence[Svg] = (), **content: Any
) -> Page:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sage_eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["marks"] = _marks
    text = environment.get_template(template).render(
        **content, sections=contents, measured=sections, colours=variables(":root")
    )
    figures = [*drawn, *(svg for part in sections for svg in part.figures)]
    return Page(text, {f"{svg.name}.svg": svg.alone() for svg in figures})


def write(run: Run, sections: Sequence[Section] = ()) -> None:
    """Write `report.html` and `figures/` into the run's folder; see `save`."""
    save(render(run, sections), run.folder)


def save(page: Page, target: Path) -> None:
    """Write the page and its figures into the folder.

    Figures of an earlier call that there is no data for any more are removed. `PrerequisiteError` where a file cannot
    be written.
    """
    folder = target / layout.FIGURES
    for name, text in page.figures.items():
        write_bytes(folder / name, text.encode())
    try:
        for old in folder.glob("*.svg"):
            if old.name not in page.figures:
                old.unlink()
    except OSError as error:
        raise PrerequisiteError(f"cannot delete {error.filename}: {error.strerror}") from None
    write_bytes(target / layout.HTML, page.text.encode())


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
