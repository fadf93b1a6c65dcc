"""`sage-eval report`: a folder shown again, be it a comparison, measurements, or both. Imports nothing heavy."""

import json as encoder
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from sage_eval.runs.folder import Run


def report(
    run: Annotated[Path, typer.Argument(help="folder written by `sage-eval compare`, `probe` or `bench`")],
    html: Annotated[Path | None, typer.Option(help="write the HTML page to this file as well")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="print comparison.json, or the records by file name, instead of tables")
    ] = False,
) -> None:
    """Compare the arms of a run folder again and print the result, as Markdown when piped; no engine is needed.

    Writes comparison.json, report.md, report.html (one page that needs no network) and its figures/*.svg into the
    folder. What `probe` and `bench` left there is a section of both reports; a folder with nothing else is shown the
    same way. In a folder that is read-only nothing is written, which is said on stderr; --html still works.
    """
    from sage_eval.probes import sections
    from sage_eval.report import html as pages
    from sage_eval.runs.folder import MANIFEST

    keep = pages.writable(run)
    records = sections.read(run)
    if records and not (run / MANIFEST).exists():
        _measurements(run, html, records, json=json, keep=keep)
    else:
        _comparison(run, html, records, json=json, keep=keep)
    if not keep:
        sys.stderr.write(f"{run} is read-only, so nothing was written there; --html PATH writes the page elsewhere\n")


def show(run: "Run", *, json: bool) -> None:
    """Print a comparison: its JSON, tables for a terminal, or Markdown where stdout is a pipe."""
    if json:
        typer.echo(run.comparison.model_dump_json(indent=1))
    elif sys.stdout.isatty():
        from rich.console import Console

        from sage_eval.report import terminal

        terminal.show(run, Console())
    else:
        from sage_eval.report.markdown import render

        typer.echo(render(run, details=False), nl=False)


def _comparison(folder: Path, html: Path | None, records: "Mapping[str, BaseModel]", *, json: bool, keep: bool) -> None:
    from sage_eval.probes import sections
    from sage_eval.report import html as pages
    from sage_eval.runs import compare, load
    from sage_eval.runs.files import write_bytes
    from sage_eval.runs.folder import HTML

    asked = load(folder).manifest.arguments
    made = sections.sections(folder, records) if keep or html else []  # figures take seconds to draw
    gates = (asked.get(name, {}) for name in ("min", "margin", "fail_on"))
    result = compare.summarise(folder, *gates, sections=made, keep=keep)
    if html:
        write_bytes(html, (folder / HTML).read_bytes() if keep else pages.render(result, made).text.encode())
    show(result, json=json)
    if keep and records:
        sys.stderr.write(f"{', '.join(records)}: shown in {folder}/report.md and report.html\n")


def _measurements(
    folder: Path, html: Path | None, records: "Mapping[str, BaseModel]", *, json: bool, keep: bool
) -> None:
    from sage_eval.probes import sections
    from sage_eval.report import html as pages
    from sage_eval.report.sections import document
    from sage_eval.runs.files import plain, write_bytes
    from sage_eval.runs.folder import REPORT

    made = sections.sections(folder, records)
    title = folder.resolve().name
    text = document(title, made)
    page = pages.render_sections(title, made)
    if keep:
        write_bytes(folder / REPORT, text.encode())
        pages.save(page, folder)
    if html:
        write_bytes(html, page.text.encode())
    if json:
        typer.echo(encoder.dumps(plain({name: record.model_dump() for name, record in records.items()}), indent=1))
    else:
        typer.echo(text, nl=False)
