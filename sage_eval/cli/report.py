"""`sage-eval report`, `validate` and `leaderboard`: run folders read again. Imports nothing heavy."""

import json as encoder
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage_eval.errors import UsageError

if TYPE_CHECKING:
    from sage_eval.render.sections import Section
    from sage_eval.store.folder import Run


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
    from sage_eval.compare.run import again
    from sage_eval.render.sections import Report
    from sage_eval.report import comparison, measurements, pages
    from sage_eval.store import load
    from sage_eval.store.files import plain, write_bytes
    from sage_eval.store.folder import MANIFEST

    def written(whole: Report) -> None:
        page = pages.write(whole, run) if keep else whole.page()
        if html:
            write_bytes(html, page.text.encode())

    keep = pages.writable(run)
    records = measurements.read(run)
    if records and not (run / MANIFEST).exists():
        whole = Report(run.resolve().name, measurements.sections(run, records))
        written(whole)
        if json:
            typer.echo(encoder.dumps(plain({name: record.model_dump() for name, record in records.items()}), indent=1))
        else:
            typer.echo(whole.markdown(), nl=False)
    else:
        result = again(load(run), keep=keep)
        if keep or html:  # figures take seconds to draw
            written(comparison.report(result, measurements.sections(run, records)))
        show(result, json=json)
        if keep and records:
            sys.stderr.write(f"{', '.join(records)}: shown in {run}/report.md and report.html\n")
    if not keep:
        sys.stderr.write(f"{run} is read-only, so nothing was written there; --html PATH writes the page elsewhere\n")


def validate(
    runs: Annotated[list[Path], typer.Argument(help="folders written by `sage-eval compare`, `probe` or `bench`")],
) -> None:
    """Check run folders: hashes, schemas, counts, and that verdicts and tables follow from the samples.

    Prints a line for each folder that is valid, and one for each thing that is not; exit code 1 if there is any.
    Pairing and resampling are done again, which for a full MMLU and ten arms takes some minutes.
    """
    from sage_eval.report.validate import misses

    found = {run: misses(run) for run in runs}
    for run, lines in found.items():
        for line in lines or ["valid"]:
            typer.echo(f"{run}: {line}")
    raise typer.Exit(int(any(found.values())))


def leaderboard(
    results: Annotated[Path, typer.Argument(help="folder of run folders")] = Path("results"),
) -> None:
    """Write the table of RESULTS/README.md and RESULTS/index.html: one row per model, GPU and arm.

    Both are made of what the run folders say: check those by `sage-eval validate RESULTS/*/` first. The table of the
    README goes between two marks; the page sorts and filters, and needs no network.
    """
    from sage_eval.report.leaderboard import build
    from sage_eval.store.files import write_bytes

    for name, text in build(results).items():
        write_bytes(results / name, text.encode())
        typer.echo(results / name)


def schema(
    name: Annotated[str | None, typer.Argument(help="manifest, comparison, samples, serving, …; default: all")] = None,
) -> None:
    """Print the JSON Schema of a run folder's files: of one, or of all by their names.

    Older versions of each file stay readable: they are read as what the schema says.
    """
    from sage_eval.parsing import nearest
    from sage_eval.report.validate import schemas

    known = schemas()
    names = {file.partition(".")[0]: file for file in known} | {file: file for file in known}
    if name and name not in names:
        raise UsageError(f"no file {name!r}{nearest(name, names)}; there are: {', '.join(known)}")
    typer.echo(encoder.dumps(known[names[name]] if name else known, indent=1))


def show(run: "Run", *, json: bool) -> None:
    """Print a comparison: its JSON, tables for a terminal, or Markdown where stdout is a pipe."""
    if json:
        typer.echo(run.comparison.model_dump_json(indent=1))
        return
    from sage_eval.report.comparison import brief_sections

    print_sections(brief_sections(run))


def print_sections(sections: "list[Section]") -> None:
    """Tables for a terminal, or Markdown where stdout is a pipe."""
    from sage_eval.render.sections import body, terminal

    if sys.stdout.isatty():
        from rich.console import Console

        terminal(sections, Console())
    else:
        typer.echo("\n\n".join(body(section.parts) for section in sections))
