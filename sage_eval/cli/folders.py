"""`sage-eval export`, `diff` and `reproduce`: what is done with finished run folders. Imports nothing heavy."""

import json as encoder
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage_eval.cli.flags import ARGV, Json
from sage_eval.errors import UsageError

if TYPE_CHECKING:
    from sage_eval.store.folder import Run

Folder = Annotated[Path, typer.Argument(help="folder written by `sage-eval compare`")]
Form = StrEnum("Form", ["pr", "latex", "csv", "parquet", "hf-card", "lm-eval"])


def export(
    run: Folder,
    form: Annotated[Form, typer.Option("--format", help="what for: see the list above")],
    output: Annotated[Path | None, typer.Option(help="file to write, for lm-eval a folder; default: stdout")] = None,
    anonymise: Annotated[bool, typer.Option("--anonymise", help="drop host names and paths")] = False,
) -> None:
    """Write a run in another format: pr (SGLang's pull-request template: accuracy, speed, how to repeat), latex (a
    booktabs table with intervals), csv or parquet (one row per arm, task and metric), hf-card (a model card with its
    model-index), lm-eval (its own folders of results and samples, one for each arm). Nothing is written into RUN.
    """
    from sage_eval.report.export import export as exported
    from sage_eval.store.files import write_bytes

    if output is None and form in (Form["parquet"], Form["lm-eval"]):
        raise UsageError(f"--format {form}: say where to with --output")
    files = exported(_judged(run), form.value, anonymise=anonymise)
    for name, data in files.items():
        if output is None:
            typer.echo(data.decode(), nl=False)
        else:
            write_bytes(output / name if form == Form["lm-eval"] else output, data)
    if output:
        sys.stderr.write(f"{len(files)} {'file' if len(files) == 1 else 'files'}: {output}\n")


def diff(
    run: Folder,
    other: Annotated[Path, typer.Argument(help="another such folder: the same arm in another version")],
    arm: Annotated[str, typer.Option(help="the arm of both that is compared")] = "candidate",
    margin: Annotated[list[str] | None, typer.Option(help="name=value, as for compare")] = None,
    fail_on: Annotated[list[str] | None, typer.Option(help="exit with 1 on any of these verdicts")] = None,
    json: Json = False,
) -> None:
    """Compare one arm of two runs, item by item and without an engine: did a new kernel or version change anything?

    RUN is the baseline. Both must have asked the same. What RUN damaged on purpose shows what would have been seen.
    """
    from sage_eval.cli.report import print_sections
    from sage_eval.compare.results import compare_runs
    from sage_eval.config import from_sources
    from sage_eval.render.sections import Section
    from sage_eval.report import results
    from sage_eval.store import load
    from sage_eval.store.manifest import differing

    settings = from_sources({"model": str(run), "margin": margin, "fail_on": fail_on})
    runs = load(run), load(other)
    found = compare_runs(*runs, arm, settings.margin, settings.fail_on)
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        table = results.differing(differing(*(one.told for one in runs)), (str(run), str(other)))
        print_sections([*results.sections(found), Section("differs", "", [table])])
    raise typer.Exit(0 if found.passed else 1)


def reproduce(
    run: Folder,
    output: Annotated[Path | None, typer.Option(help="folder of the new run; default: results/RUN-again")] = None,
    model: Annotated[str | None, typer.Option(help="where the model is here; default: as in RUN")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="folder with the data; filled as by prepare if it is not there")
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="arms at a time; default: as in RUN")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what differs, and estimate time and disk; start no engine")
    ] = False,
    json: Json = False,
) -> None:
    """Make a run again with its settings and seeds, and set the new numbers beside the old.

    Says what differs here: versions, GPU, model, data, items. Exits with 1 where a number does not agree within the
    95 % intervals of both runs. An interrupted call is resumed by repeating it.
    """
    from rich.console import Console

    from sage_eval.cli.report import print_sections
    from sage_eval.compare import reproduce as again
    from sage_eval.compare.plan import plan
    from sage_eval.compare.run import compare
    from sage_eval.render.sections import Section
    from sage_eval.report import pages, results
    from sage_eval.report.comparison import report
    from sage_eval.report.progress import Progress
    from sage_eval.store import load
    from sage_eval.store.files import plain
    from sage_eval.store.manifest import differing

    then = load(run)
    target = output or Path("results") / f"{run.resolve().name}-again"
    config = again.configuration(then, model=model, data_dir=data_dir, output=target, parallel=parallel)
    if dry_run:
        found = again.outlook(then, config)
        if json:
            typer.echo(encoder.dumps(plain(asdict(found)), indent=1))
            return
        print_sections([Section("differs", "", [results.differing(found.differs, ("then", "here")), found.text()])])
        if not found.download:
            typer.echo(f"\n{plan(config).text()}")
        return
    for name, *sides in again.outlook(then, config).differs:
        sys.stderr.write(f"differs here: {name}: {' -> '.join(sides)}\n")
    again.fill(config)
    now = compare(config, display=Progress(Console(stderr=True)), argv=list(ARGV))
    pages.write(report(now), now.folder)
    numbers = again.agreement(_by_todays_rules(then).comparison, now.comparison)
    table = results.differing(differing(then.told, now.told), ("then", "now"))
    if json:
        listed = [asdict(number) | {"agrees": number.agrees} for number in numbers]
        typer.echo(encoder.dumps(plain({"schema_version": 1, "differs": table.rows, "numbers": listed}), indent=1))
    else:
        print_sections([Section("differs", "", [table]), Section("agreement", "", [results.agreement(numbers)])])
    sys.stderr.write(f"run folder: {now.folder}\n")
    raise typer.Exit(0 if all(number.agrees for number in numbers) else 1)


def _judged(folder: Path) -> "Run":
    """The run in `folder` with the comparison that its report shows; computed where it has none of today's."""
    from sage_eval.errors import DataError
    from sage_eval.store import load

    run = load(folder)
    try:
        return run.judged(run.comparison, run.fidelity)
    except DataError:
        return _by_todays_rules(run)


def _by_todays_rules(run: "Run") -> "Run":
    from sage_eval.compare.run import judge

    gates = (run.manifest.arguments.get(name, {}) for name in ("min", "margin", "fail_on"))
    return judge(run, *gates, keep=False)
