"""`sage-eval bench` and `sage-eval probe`: an instrument each, its flags from its plan. Prints, nothing else.

Plans bring NumPy with them, so the commands are there once `fill` was called: `--help` of all else stays instant.
"""

import json as encoder
from typing import Any

import typer

from sage_eval.cli.flags import ARGV, Json, command, parse, say
from sage_eval.measure import BENCH, PROBE, instrument

bench = typer.Typer(help="Measure speed and memory; engines take turns on one GPU.", no_args_is_help=True)
probe = typer.Typer(
    help="Measure what lm-eval does not: determinism, full logits, activation drift.", no_args_is_help=True
)


def fill() -> None:
    """Give both groups their commands, once."""
    for group, kinds in ((bench, BENCH), (probe, PROBE)):
        if not group.registered_commands:
            for kind in kinds:
                _add(group, kind)


def _add(group: typer.Typer, kind: str) -> None:
    made = instrument(kind)

    def run(given: dict[str, Any], json: Json = False) -> None:
        from sage_eval.report.measurements import text
        from sage_eval.store.files import write_bytes
        from sage_eval.store.provenance import shell

        plan = parse(made.plan, given)
        record, folder = made.measure(plan, command=shell(ARGV), say=say)
        view = made.view(record)
        for svg in view.figures:
            write_bytes(folder / f"{svg.name}.svg", svg.alone().encode())
        shown = encoder.dumps(record.model_dump(mode="json"), indent=1) if json else text(view, folded=False)
        typer.echo(shown, nl=json)
        say(f"run folder: {folder}")
        raise typer.Exit(int(made.failed(record, plan)))

    run.__doc__ = type(made).__doc__
    group.command(kind)(command(made.plan, run))
