"""What instruments left in a folder, as sections of its report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_eval.errors import DataError
from sage_eval.measure import BENCH, FORMER, PROBE, instrument
from sage_eval.measure.base import View
from sage_eval.render.sections import Folded, Section, body
from sage_eval.store import record as records
from sage_eval.store.record import Record


def read(folder: Path) -> dict[str, Any]:
    """The records in `folder` by file name, in the order of a report. `DataError` where one is damaged."""
    found: dict[str, Any] = {}
    for kind in (*PROBE, *BENCH, *FORMER):
        made = instrument(kind)
        if (path := made.file(folder)).exists():
            found[path.name] = records.read(made.row, path, kind)
    return found


def found(folder: Path) -> list[Section]:
    """A section for each record in `folder`. `DataError` where one is damaged."""
    return sections(folder, read(folder))


def sections(folder: Path, measured: Mapping[str, Any]) -> list[Section]:
    """A section for each of the records that were read from `folder`. `DataError` where one cannot be shown."""
    made = []
    for name, record in measured.items():
        try:
            made.append(_section(record))
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # within what a schema leaves open
            raise DataError(f"{folder / name} is damaged ({error!r}): delete it and measure again") from error
    return made


def text(view: View, *, folded: bool = True) -> str:
    """The view as Markdown, without its title; without what is `folded` for a terminal."""
    return body([part for part in view.parts if folded or not isinstance(part, Folded)], "### {}") + "\n"


def _section(record: Record[Any]) -> Section:
    view = instrument(record.kind).view(record)
    return Section(record.kind, view.title, view.parts, view.figures)
