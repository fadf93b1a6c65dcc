"""A run seen from outside while it goes on: how far each arm is, at what rate, and how it stands so far.

Read from the folder alone, which nothing is written to and no lock of which is taken, so that it works on another
machine too. A file that is being replaced, cut or not there yet is no fault: it will be there at the next look.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from sage_eval.arms.worker import last_line, log_of
from sage_eval.compare.standing import Items, Standing, count, finished, shown, standings
from sage_eval.errors import DataError, UsageError
from sage_eval.measure import BENCH, PROBE, instrument
from sage_eval.render.sections import Part
from sage_eval.render.table import MISSING, Table
from sage_eval.render.text import escape
from sage_eval.report.progress import Bar, latest
from sage_eval.store import folder as layout
from sage_eval.store import lock, running
from sage_eval.store import record as records

State = Literal["starting", "running", "waiting", "finished", "failed", "stopped"]
QUIET_SECONDS = 600.0
"""A command of another machine that has written nothing for so long has probably ended."""
KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
NOTE = (
    "Scores are of the finished items only, and these are no random part of all: items finish task after task, the "
    "short ones first. Who looks often finds a difference that is none. No verdict follows from this table."
)


@dataclass(frozen=True)
class ArmState:
    """`done` of `of` items (of a measurement: cells), `rate` requests a second, and `left` seconds for this arm.

    None: not known. `now` is what its log says.
    """

    name: str
    state: State
    done: int | None = None
    of: int | None = None
    now: str = ""
    rate: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Watched:
    """A comparison or a measurement at one moment. `left` is in seconds, None where that is not known.

    `least`: more is to come than `left` counts. `quiet`: seconds since anything was written.
    """

    what: str
    state: State
    by: str
    quiet: float | None
    arms: Sequence[ArmState]
    left: float | None = None
    least: bool = False
    scores: Sequence[Standing] = ()
    notes: Sequence[str] = ()
    parts: Sequence[Part] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will come by itself."""
        return self.state in ("finished", "failed", "stopped")


def look(folder: Path) -> list[Watched]:
    """What is at work in `folder`, or was and broke off; where there is no such thing, what is finished there.

    Raises `UsageError` where no command of this project has worked there.
    """
    found = [_measurement(folder, kind) for kind in (*PROBE, *BENCH)]
    if any((folder / name).exists() for name in (layout.MANIFEST, "arms", lock.FILE)):
        found.insert(0, _Comparison(folder).watched())
    known = [each for each in found if each]
    if not known:
        raise UsageError(f"{folder} holds no run: give the folder that `compare`, `bench` or `probe` writes to")
    return [each for each in known if each.state != "finished"] or known


def parts(watched: Watched) -> list[Part]:
    """What is seen, for people."""
    made: list[Part] = [f"{watched.what}: {_headline(watched)}"]
    counted = ("arm", "state", "finished", "of", "requests/s", "left", "now")
    rows = [
        (escape(arm.name), arm.state, _number(arm.done), _number(arm.of), _rate(arm.rate), _time(arm.left),
         escape(arm.now) or MISSING)
        for arm in watched.arms
    ]  # fmt: skip
    if rows:
        made.append(Table("", counted, rows, watched.notes, names=2))
    elif watched.notes:
        made.append("\n".join(f"- {note}" for note in watched.notes))
    if watched.scores:
        made.append(_scores(watched.scores))
    return [*made, *watched.parts]


def plain(watched: Watched) -> dict[str, Any]:
    """What is seen, for programs: scores as lm-eval reports them, differences in the units of the report."""
    scores = [
        {"name": s.name, "metric": s.metric, "arm": s.arm, "n": s.score.n,
         **dict(zip(("value", "low", "high"), shown(s, s.score), strict=True)), "se": s.score.se,
         "difference": s.difference and {k: getattr(s.difference, k) for k in ("value", "low", "high", "n")}}
        for s in watched.scores
    ]  # fmt: skip
    return {
        "what": watched.what, "state": watched.state, "by": watched.by, "quiet_seconds": watched.quiet,
        "left_seconds": watched.left, "left_is_least": watched.least,
        "arms": [vars(arm) for arm in watched.arms], "scores": scores,
    }  # fmt: skip


@dataclass(frozen=True)
class _Comparison:
    folder: Path
    notes: list[str] = field(default_factory=list)

    def watched(self) -> Watched:
        arms = [self._arm(name) for name in self.names]
        whole = bool(arms) and all(arm.state == "finished" for arm in arms)
        at_work = self.holder is not None and self.holder.alive is not False
        state: State = "running" if at_work else "stopped"
        if whole and self.holder is None and (self.folder / layout.COMPARISON).exists():
            state = "finished"
        elif at_work and not any((self.folder / "arms" / name / layout.LOG).exists() for name in self.names):
            state = "starting"
        scores = standings({name: items for name in self.names if (items := self.items[name])})
        left, least = self._left(arms) if state == "running" else (None, False)
        if state == "finished":  # the comparison says it all
            scores = []
        return Watched(
            "Comparison", state, self.holder.process if self.holder else "",
            _quiet([self.folder, *self.folder.glob("*"), *self.folder.glob("arms/*/*")]),
            arms, left, least, scores, self.notes,
        )  # fmt: skip

    @cached_property
    def holder(self) -> lock.Holder | None:
        return lock.holder(self.folder / lock.FILE)

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """As far as it can be read: a command that has just begun has none, or an earlier one's."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.folder / layout.MANIFEST).read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        if (self.folder / layout.MANIFEST).exists():
            self.notes.append(f"{layout.MANIFEST} cannot be read at the moment")
        return {}

    @cached_property
    def names(self) -> list[str]:
        """The arms, baseline first."""
        there = sorted(path.name for path in self.folder.glob("arms/*") if path.is_dir())
        names = [str(name) for name in self.manifest.get("arms", [])] or there
        return sorted(names, key=lambda name: name != "baseline")

    @cached_property
    def records(self) -> dict[str, layout.Arm | None]:
        """The finished arms."""
        found: dict[str, layout.Arm | None] = {}
        for name in self.names:
            found[name] = None
            try:
                found[name] = layout.read_arm(self.folder / "arms" / name)
            except DataError as error:
                self.notes.append(str(error))
        return found

    @cached_property
    def items(self) -> dict[str, Items | None]:
        """What each arm has finished."""
        found: dict[str, Items | None] = {}
        for name, arm in self.records.items():
            found[name] = running.read(self.folder / "arms" / name / layout.RUNNING)
            if arm:
                with contextlib.suppress(DataError, OSError):
                    found[name] = _finished(arm.folder, (arm.folder / layout.ARM).stat().st_mtime_ns)
        return found

    def _arm(self, name: str) -> ArmState:
        folder, items = self.folder / "arms" / name, self.items[name]
        done, of = (sum(count(items).values()), sum(items[0].items.values())) if items else (None, None)
        if arm := self.records[name]:
            seconds = sum(arm.record.seconds.values())
            return ArmState(name, "finished", arm.record.items, of, f"in {_time(seconds)}")
        log = folder / layout.LOG
        if not log.exists():
            return ArmState(name, "waiting", of=of)
        if self.holder is None or self.holder.alive is False:
            return ArmState(name, "stopped", done, of, _last(log))
        with contextlib.suppress(OSError):
            if log.stat().st_mtime < (self.folder / lock.FILE).stat().st_mtime:
                return ArmState(name, "waiting", done, of, "stopped earlier")
        bar = latest(log)
        state: State = "running" if bar and _kind(bar) in KINDS else "starting"
        now = f"{bar.what} {bar.done:,}/{bar.of:,}" if bar else _last(log)
        # Of another bar, as of files that are loaded, the time left is not the arm's.
        rate, left = (bar.rate, bar.left) if bar and state == "running" else (None, None)
        return ArmState(name, state, done, of, now, rate, left)

    def _left(self, arms: Sequence[ArmState]) -> tuple[float | None, bool]:
        """Seconds, and whether more is to come than they count: an arm takes as long as those that are finished."""
        took = [sum(arm.record.seconds.values()) for arm in self.records.values() if arm]
        usual = sum(took) / len(took) if took else None
        total, least = 0.0, bool(self.manifest.get("arguments", {}).get("until"))
        for arm in arms:
            if arm.state == "finished":
                continue
            later = arm.left is None or self._has_later_kinds(arm)
            if later and usual is not None:
                share = arm.done / arm.of if arm.done and arm.of else 0.0
                total += max(arm.left or 0.0, usual * (1 - share))
            else:
                total += arm.left or 0.0
                least = least or later
        together = min(int(self.manifest.get("arguments", {}).get("parallel") or 1), len(arms)) or 1
        return (total / together if total else None), least

    def _has_later_kinds(self, arm: ArmState) -> bool:
        """Whether requests of another kind follow those that the arm is at: its bar counts one kind."""
        items, bar = self.items[arm.name], latest(self.folder / "arms" / arm.name / layout.LOG)
        kinds = list(items[0].requests) if items else []
        return bool(bar and kinds and _kind(bar) != kinds[-1])


@lru_cache(maxsize=32)
def _finished(folder: Path, _changed: int) -> Items | None:
    """A finished arm's items, which are read once."""
    arm = layout.read_arm(folder)
    return finished(arm) if arm else None


def _measurement(folder: Path, kind: str) -> Watched | None:
    made = instrument(kind)
    path = made.file(folder)
    held = path.with_name(f".{path.name}.lock")
    holder = lock.holder(held)
    if not path.exists() and holder is None:
        return None
    notes: list[str] = []
    record: records.Record[Any] | None = None
    if path.exists():
        try:
            record = records.read(made.row, path, kind)
        except DataError as error:
            notes.append(str(error))
    asked: dict[str, Any] = {}
    if holder:
        with contextlib.suppress(ValueError):
            asked = json.loads(holder.note)
    at_work = holder is not None and holder.alive is not False
    state: State = "running" if at_work else "finished" if record and holder is None else "stopped"
    rows = {(row.arm, row.cell) for row in record.rows} if record else set()
    names = list(dict.fromkeys([*(record.arms if record else ()), *asked.get("arms", ())]))
    cells = asked.get("cells", ())
    arms = []
    for name in names:
        done = sum(arm == name for arm, _ in rows)
        of = len(cells) if name in asked.get("arms", ()) and cells else None
        broken = record.arms[name].error if record and name in record.arms else None
        lacks = any((name, cell) not in rows for cell in cells) if of else at_work
        log = log_of(name, path.parent / "logs")
        own: State = "failed" if broken else "finished" if not lacks and state != "stopped" else state
        if own == "running" and not (log.exists() and held.exists() and log.stat().st_mtime >= held.stat().st_mtime):
            own = "waiting"
        arms.append(ArmState(name, own, done, of, " ".join((broken or "").split())[:120]))
    if state == "finished" and any(arm.state == "failed" for arm in arms):
        state = "failed"
    view: Sequence[Part] = ()
    if record and record.rows:
        # Of few rows a summary may be impossible.
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError):
            view = [part for part in made.view(record).parts if isinstance(part, Table)]
    return Watched(
        made.title, state, holder.process if holder else "", _quiet([path, held, *folder.glob("logs/*")]),
        arms, _cells_left(path, held, asked, rows) if at_work else None, False, (), notes, view,
    )  # fmt: skip


def _cells_left(path: Path, held: Path, asked: Mapping[str, Any], rows: set[tuple[str, str]]) -> float | None:
    """Seconds, as if what is left took as long a cell as what this command has measured."""
    wanted = {(arm, cell) for arm in asked.get("arms", ()) for cell in asked.get("cells", ())}
    new = len(rows & wanted) - int(asked.get("done", 0))
    if new < 1:
        return None
    try:
        seconds = path.stat().st_mtime - held.stat().st_mtime
    except OSError:
        return None
    return max(seconds, 0.0) * len(wanted - rows) / new


def _kind(bar: Bar) -> str:
    """The kind of request whose bar it is; lm-eval's own models say "Running loglikelihood requests"."""
    return bar.what.removeprefix("Running ").removesuffix(" requests")


def _last(log: Path) -> str:
    try:
        return last_line(log)
    except OSError:
        return ""


def _quiet(paths: Sequence[Path]) -> float | None:
    """Seconds since the youngest of these files was written, by this machine's clock."""
    times = list(_times(paths))
    return max(0.0, time.time() - max(times)) if times else None


def _times(paths: Sequence[Path]) -> Iterator[float]:
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_file():
                yield path.stat().st_mtime


def _headline(watched: Watched) -> str:
    quiet = "" if watched.quiet is None else f"; last written {_time(watched.quiet)} ago"
    if watched.state in ("finished", "failed"):
        return watched.state
    if watched.state == "stopped":
        why = f"{watched.by} was killed" if watched.by else "no command is at work in it"
        return f"stopped before its end ({why}){quiet}. Repeat the command to go on: what is finished is kept"
    left = f"; about {_time(watched.left)} left" if watched.left is not None else ""
    if watched.least:
        left = left.replace("about", "at least") or "; more than is known yet is left"
    ended = ""
    if watched.quiet is not None and watched.quiet > QUIET_SECONDS:
        ended = ", so long that it may have ended: only its own machine can tell"
    return f"{watched.state}, by {watched.by}{left}{quiet}{ended}"


def _scores(scores: Sequence[Standing]) -> Table:
    header = ("task", "metric", "arm", "items", "so far", "95 % interval", "− baseline", "95 % interval")
    rows = []
    for each in scores:
        value, *ends = shown(each, each.score)
        scale, digits, unit = (100, 2, " %") if each.share else (1, 4, "")
        own = [None if end is None else scale * end for end in ends]
        paired = ["", ""]
        if each.difference:
            gap = each.difference
            name = " pp" if each.share else " ln" if each.kind == "log-perplexity" else ""
            signed = [None if end is None else scale * end for end in (gap.low, gap.high)]
            paired = [f"{scale * gap.value:+.{digits}f}{name} (n = {gap.n:,})", _interval(signed, f"+.{digits}f")]
        rows.append((escape(each.name), escape(each.metric), escape(each.arm), f"{each.score.n:,}",
                     f"{scale * value:.{digits}f}{unit}", _interval(own, f".{digits}f"),
                     *(cell or MISSING for cell in paired)))  # fmt: skip
    return Table("Scores so far", header, rows, [NOTE], names=3)


def _interval(ends: Sequence[float | None], form: str) -> str:
    low, high = ends
    return "too few" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def _number(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _rate(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.3g}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
