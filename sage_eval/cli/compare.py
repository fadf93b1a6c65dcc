"""`sage-eval compare`: a comparison run, or what it would take. Imports nothing heavy."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_eval.cli.flags import ARGV, Json, command
from sage_eval.cli.report import print_sections, show
from sage_eval.config import RunConfig, from_sources
from sage_eval.errors import UsageError

EPILOG = """Examples:\n
\n
sage-eval compare MODEL --candidate sage_attn --tasks sage_wikitext,sage_mmlu --limit 100\n
\n
sage-eval compare MODEL --variant int8-fp8 --min sage_mmlu=0.60 --output results/fp8\n
\n
sage-eval compare MODEL --margin sage_mmlu=0.01 --fail-on worse,inconclusive\n
\n
sage-eval compare MODEL --candidate sage_attn+fa3 --candidate sage_attn+fa3:variant=int8-fp8 --parallel 4\n
\n
sage-eval compare --results samples_gsm8k_A.jsonl samples_gsm8k_B.jsonl\n
\n
sage-eval report results/fp8
"""

Results = typer.Option(
    "--results",
    metavar="BASELINE CANDIDATE",
    help="compare two files (or folders) of samples of lm-eval or sgl-eval; no model and no engine",
)


def _compare(
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these settings")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="run all arms again")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="keep finished arms [default]")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list requests, tokens and a time estimate; start no engine")
    ] = False,
    results: Annotated[tuple[Path, Path] | None, Results] = None,
    json: Json = False,
) -> None:
    """Run MODEL with two attention backends on the same prompts and print the verdict and every paired difference.

    The arms run one after the other (see --parallel), each in a process of its own. An interrupted or failed call keeps
    the arms that are finished; the same command resumes. Settings come from flags, SAGE_EVAL_* variables and --config,
    in that order.
    """
    if fresh and resume:
        raise UsageError("--fresh runs all arms again and --resume keeps the finished ones: give one of them")
    if results:
        _results(*results, from_sources({"model": str(results[0]), **given}, config), json=json)
    settings = from_sources(given, config)
    from rich.console import Console

    console = Console(stderr=True)
    if dry_run:
        from sage_eval.compare.plan import plan

        with console.status("counting requests and tokens"):
            result = plan(settings)
        typer.echo(result.model_dump_json(indent=1) if json else result.text())
        return
    from sage_eval.compare import run as runs
    from sage_eval.report import pages
    from sage_eval.report.comparison import report
    from sage_eval.report.measurements import found
    from sage_eval.report.progress import Progress

    run = runs.compare(settings, fresh=fresh, display=Progress(console), argv=list(ARGV))
    pages.write(report(run, found(run.folder)), run.folder)
    show(run, json=json)
    sys.stderr.write(f"run folder: {run.folder}\n")
    raise typer.Exit(0 if run.comparison.passed else 1)


def _results(baseline: Path, candidate: Path, settings: RunConfig, *, json: bool) -> None:
    from sage_eval.compare.results import compare_results
    from sage_eval.report.results import sections

    found = compare_results(baseline, candidate, settings.margin, settings.fail_on)
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        print_sections(sections(found))
    raise typer.Exit(0 if found.passed else 1)


compare = command(RunConfig, _compare)
