"""A table of text, and its one way into Markdown, into HTML and to a terminal."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage_eval.render import text

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.console import Console

MISSING = "–"
"""What a cell shows where there is no value."""
_LONG = 20
"""A number of more characters may be broken into lines."""
_PHONE = 46
"""Characters in a line of a table on a phone."""
_UNBROKEN = re.compile(r"\[[^\[\]]{1,40}\]|p (?:=|&lt;) ")


@dataclass(frozen=True)
class Table:
    """A titled table of cells, which are Markdown. The first `names` columns are names, the others numbers.

    `notes` follow it; a terminal has no room for the columns `wide`.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    names: int = 1
    wide: Sequence[str] = ()

    def __post_init__(self) -> None:
        rows = [[*row[: self.names], *map(text.minus, row[self.names :])] for row in self.rows]
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "notes", list(map(text.minus, self.notes)))


def markdown(table: Table, heading: str = "**{}**") -> str:
    """GitHub-flavoured Markdown; `heading` takes the title, and an empty title is left out."""
    lines = [heading.format(table.title), ""] if table.title else []
    lines.append(_row(table.header))
    lines.append(_row(["---"] * table.names + ["---:"] * (len(table.header) - table.names)))
    lines += [_row(row) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def html(table: Table) -> "Markup":
    """A `<table>` in a region that scrolls, and the notes as a list."""
    from markupsafe import Markup, escape

    head = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(_kind(table, place), text.inline(name))
        for place, name in enumerate(table.header)
    )
    rows = Markup("\n").join(Markup("<tr>{}</tr>").format(_cells(table, row)) for row in table.rows)
    caption = Markup("<caption><span>{}</span></caption>\n").format(text.inline(table.title)) if table.title else ""
    shown = Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}">\n<table{}>\n{}<thead><tr>{}</tr></thead>\n'
        "<tbody>\n{}\n</tbody>\n</table>\n</div>\n"
    ).format(escape(table.title or "table"), Markup("" if _fits(table) else ' class="stacks"'), caption, head, rows)
    notes = Markup("").join(Markup("<li>{}</li>\n").format(text.inline(note)) for note in table.notes)
    return shown + (Markup('<ul class="notes">\n{}</ul>\n').format(notes) if notes else "")


def terminal(table: Table, console: "Console") -> None:
    """Print the table and its notes."""
    from rich import box
    from rich.table import Table as TerminalTable
    from rich.text import Text

    shown = TerminalTable(title=Text(table.title) if table.title else None, title_justify="left", box=box.SIMPLE_HEAD)
    places = [place for place, name in enumerate(table.header) if name not in table.wide]
    for place in places:
        shown.add_column(Text(table.header[place]), justify="left" if place < table.names else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(text.plain(row[place])) for place in places))
    console.print(shown)
    for note in table.notes:
        console.print(f"  {text.plain(note)}", markup=False, highlight=False)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell).replace("\n", " ") for cell in cells) + " |"


def _fits(table: Table) -> bool:
    """Whether a phone has room for the columns side by side; where it has not, a row's cells follow each other."""
    widths = [max([max(map(len, name.split()), default=0), *map(len, cells)]) + 2 for name, *cells in
              zip(table.header, *table.rows, strict=True)]  # fmt: skip
    return sum(widths) <= _PHONE


def _kind(table: Table, place: int, cell: str = "") -> "Markup":
    from markupsafe import Markup

    if cell == MISSING:
        return Markup(' class="none"') if place < table.names else Markup(' class="n none"')
    if place < table.names:
        return Markup(' class="w"') if len(cell) > _LONG else Markup("")
    return Markup(' class="n w"') if len(cell) > _LONG else Markup(' class="n"')


def _cells(table: Table, row: Sequence[str]) -> "Markup":
    from markupsafe import Markup

    made = Markup("")
    for place, cell in enumerate(row):
        # Where a cell must break, not within an interval or a p-value.
        shown = _UNBROKEN.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), str(text.inline(cell)))
        label = text.plain(table.header[place])
        tag = (
            Markup('<th scope="row" data-label="{2}">{0}</th>')
            if place == 0
            else Markup('<td{1} data-label="{2}">{0}</td>')
        )
        made += tag.format(Markup(shown), _kind(table, place, cell), label)
    return made
