"""`sage-eval watch`: a run that is going on, seen from another terminal. Imports nothing heavy."""

import json as encoder
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sage_eval.report.watch import Watched


def watch(
    run: Annotated[Path, typer.Argument(help="folder that `sage-eval compare`, `bench` or `probe` writes to")],
    every: Annotated[float, typer.Option(min=0.2, help="seconds between two looks")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="look once and end, as without a terminal")] = False,
    json: Annotated[bool, typer.Option("--json", help="look once and print JSON")] = False,
) -> None:
    """Show how far a run is: finished, rate, time left, and each arm's scores so far with their intervals.

    Reads the folder alone and writes nothing there, so that it works from another terminal, or from any machine that
    has the folder. Ends with the run: exit code 0 where it is finished (or still going on, looked at once), 1 where it
    broke off.
    """
    from sage_eval.cli.report import print_sections, show
    from sage_eval.render.sections import Section
    from sage_eval.report.watch import look, parts, plain
    from sage_eval.store import load
    from sage_eval.store.files import plain as jsonable

    live = sys.stdout.isatty() and not (once or json)
    found = _until_over(run, every) if live else look(run)
    if json:
        typer.echo(encoder.dumps(jsonable({"schema_version": 1, "runs": [plain(each) for each in found]}), indent=1))
    else:
        print_sections([Section("watch", "", parts(each)) for each in found])
        if found[0].state == "finished" and found[0].what == "Comparison":
            typer.echo()
            show(load(run), json=False)
    raise typer.Exit(int(any(each.state in ("stopped", "failed") for each in found)))


def _until_over(run: Path, every: float) -> "list[Watched]":
    """Show what is seen, again and again, until nothing is at work any more."""
    import io

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from sage_eval.render.sections import Section, terminal
    from sage_eval.report.watch import look, parts

    screen = Console()

    def drawn(found: "list[Watched]") -> Text:
        page = io.StringIO()
        terminal(
            [Section("watch", "", parts(each)) for each in found],
            Console(file=page, force_terminal=True, width=screen.width),
        )
        return Text.from_ansi(page.getvalue())

    with Live(console=screen, auto_refresh=False, transient=True, vertical_overflow="visible") as live:
        while True:
            found = look(run)
            if all(each.over for each in found):
                return found
            live.update(drawn(found), refresh=True)
            time.sleep(every)
