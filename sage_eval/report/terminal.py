"""The result on a terminal (rich tables), and the progress of a run on stderr."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from sage_eval.report import doses, fidelity, tables, verdict
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.folder import Run


def show(run: Run, console: Console) -> None:
    """Print the tables of a run to a terminal."""
    comparison: Comparison = run.comparison
    for line in verdict.headline(comparison):
        console.print(line.replace("**", "").replace("`", ""), style="bold", markup=False, highlight=False)
    if judged := verdict.table(comparison):
        _print(verdict.narrow(judged), console)
    if stress := doses.table(comparison):
        _print(stress, console)
    candidates = [pair for pair in comparison.pairs if pair.role == "candidate"]
    for pair in candidates:
        _print(tables.scores(comparison, pair, members=False), console)
    for gate in comparison.gates:
        outcome = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        console.print(f"minimum {gate.task} {gate.metric} = {gate.minimum:g}: {outcome} with {gate.value:.4f}")
    for pair in candidates:
        for row in tables.top_level(pair):
            for grid in tables.cells(row):
                _print(grid, console)
    if distances := fidelity.table(run.fidelity):
        _print(fidelity.narrow(distances), console)
    _print(tables.coverage(comparison.arms), console)


class Progress:
    """`runs.side_by_side.Display` on stderr: a live line an arm on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._lines: dict[str, str] = {}
        self._status = console.status("", spinner="dots")  # rich shows one live area at a time: all arms share it

    @contextlib.contextmanager
    def arm(self, name: str, backend: str) -> Iterator[Callable[[str], None]]:
        """Show the arm's current line and its elapsed time until the block ends."""
        started = time.monotonic()
        label = f"{name} ({backend})"
        if not self._console.is_terminal:
            self._console.print(f"{label}: running", markup=False, highlight=False)

        def update(line: str) -> None:
            minutes, seconds = divmod(int(time.monotonic() - started), 60)
            self._show(name, f"{escape(label)} {minutes}:{seconds:02d}  [dim]{escape(line)}[/]")

        try:
            self._show(name, f"{escape(label)}: starting")
            yield update
        finally:
            self._show(name, None)
        elapsed = time.monotonic() - started
        self._console.print(f"{label}: finished in {elapsed:.0f} s", markup=False, highlight=False)

    def _show(self, name: str, line: str | None) -> None:
        """Replace an arm's line, or take it away."""
        if not self._console.is_terminal:
            return
        with self._lock:
            self._lines = {**self._lines, name: line} if line else {k: v for k, v in self._lines.items() if k != name}
            if self._lines:
                self._status.update("\n  ".join(self._lines.values()))
                self._status.start()
            else:
                self._status.stop()

    def kept(self, name: str, backend: str) -> None:
        """Say that an earlier call's arm is used."""
        self._console.print(f"{name} ({backend}): finished earlier, kept", markup=False, highlight=False)


def _print(table: tables.Table, console: Console) -> None:
    shown = RichTable(title=escape(table.title), title_justify="left", header_style="bold")
    for index, name in enumerate(table.header):
        shown.add_column(escape(name), justify="left" if index < table.names else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(cell.replace("**", "")) for cell in row))
    console.print(shown)
    for note in table.notes:
        console.print(f"  {note}", markup=False, highlight=False)
