"""The progress of a comparison on stderr."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

EVERY_SECONDS = 60
"""How often an arm's line is printed where there is no terminal."""
SETTLED, SHARE = 20, 0.05
"""So many requests, or that share of them, are done before a time left is shown: the first of a batch takes as long as
all that were begun with it.
"""
_BAR = re.compile(
    r"(?P<what>[^:|\r\n]*):\s*\d+%\|[^\r\n]*?\|\s*(?P<done>\d+)/(?P<all>\d+)\s*\[[^<\r\n]*<(?P<left>[\d:?]+)"
    r"(?:,\s*(?P<rate>[\d.]+)(?P<unit>it/s|s/it))?"
)
"""A line of tqdm: "loglikelihood:  45%|####  | 9/20 [01:00<01:13, …]"."""
_ASIDE = re.compile(r"warnings\.warn\(|\w+Warning: ")
"""A library's warning, which says nothing of how far an arm is."""


def plain(line: str) -> str:
    """A worker's line of progress in words, if it is one: what, how much of it, and the time left if that is known."""
    if not (bar := _BAR.match(line)):
        return line
    left = "" if "?" in bar["left"] else f", {bar['left']} left"
    return f"{bar['what']} {bar['done']}/{bar['all']}{left}"


def settled(line: str) -> str:
    """A worker's line; of a bar that has just begun the time left and the rate are unknown, as tqdm writes that."""
    bar = _BAR.match(line)
    if not bar or _is_settled(bar):
        return line
    return f"{line[: bar.start('left')]}?]"


def _is_settled(bar: re.Match[str]) -> bool:
    return int(bar["done"]) >= min(SETTLED, SHARE * int(bar["all"]))


@dataclass(frozen=True)
class Bar:
    """How far a log is: `done` of `of` things called `what`, how many a second, and seconds left; None: not known."""

    what: str
    done: int
    of: int
    rate: float | None
    left: float | None


def latest(log: Path, window: int = 65_536) -> Bar | None:
    """The last bar among the last bytes of a growing log; None where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - window))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    if not (bars := [*_BAR.finditer(text)]):
        return None
    bar = bars[-1]
    rate = float(bar["rate"]) if bar["rate"] and float(bar["rate"]) else None
    known = rate and _is_settled(bar) and "?" not in bar["left"]
    parts = [int(part) for part in reversed(bar["left"].split(":"))] if known else []
    return Bar(
        bar["what"].strip(), int(bar["done"]), int(bar["all"]),
        (1 / rate if bar["unit"] == "s/it" else rate) if rate else None,
        float(sum(part * 60**place for place, part in enumerate(parts))) if known else None,
    )  # fmt: skip


class Progress:
    """`compare.run.Display` on stderr: one live line per arm on a terminal, elsewhere a plain one every minute."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._now = console, clock
        self._lock = threading.Lock()
        self._lines: dict[str, str] = {}
        self._status = console.status("", spinner="dots")  # rich shows one live area at a time: all arms share it

    @contextlib.contextmanager
    def arm(self, name: str, backend: str) -> Iterator[Callable[[str], None]]:
        """Show the arm's current line and its elapsed time until the block ends."""
        started = said = self._now()
        label, shown = f"{name} ({backend})", "starting"
        if not self._console.is_terminal:
            self._print(f"{label}: running")

        def update(line: str) -> None:
            nonlocal said, shown
            now = self._now()
            minutes, seconds = divmod(int(now - started), 60)
            shown = shown if _ASIDE.search(line) else settled(line)
            self._show(name, f"{escape(label)} {minutes}:{seconds:02d}  [dim]{escape(shown)}[/]")
            if not self._console.is_terminal and now - said >= EVERY_SECONDS:
                said = now
                self._print(f"{label} {minutes}:{seconds:02d}: {plain(shown)}")

        try:
            self._show(name, f"{escape(label)}: starting")
            yield update
        finally:
            self._show(name, None)
        elapsed = self._now() - started
        self._print(f"{label}: finished in {elapsed:.0f} s")

    def _print(self, line: str) -> None:
        """A line of its own, whole however wide the console is thought to be."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

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

    def again(self, name: str, why: str) -> None:
        """Say why an earlier call's arm is run again."""
        self._print(f"{name}: run again, as {why}")

    def kept(self, name: str, backend: str) -> None:
        """Say that an earlier call's arm is used."""
        self._print(f"{name} ({backend}): finished earlier, kept")
