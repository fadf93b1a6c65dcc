"""A report is a title and sections of texts, tables, folded parts and figures: as Markdown, HTML or on a terminal."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias, Union

from sage_eval.render import table as tables
from sage_eval.render import text
from sage_eval.render.figures import Svg, variables
from sage_eval.render.table import Table

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.console import Console

Part: TypeAlias = Union[str, Table, "Folded"]
"""A `str` is paragraphs of Markdown."""


@dataclass(frozen=True)
class Folded:
    """What is shown on request."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Section:
    """`name` is an anchor; headings within the parts are of the third level. A page shows the figures first.

    `page_only`: Markdown leaves the section out.
    """

    name: str
    title: str
    parts: Sequence[Part] = ()
    figures: Sequence[Svg] = ()
    page_only: bool = False

    @property
    def html(self) -> "Markup":
        """The parts as HTML that loads nothing."""
        return _html(self.parts)


@dataclass(frozen=True)
class Report:
    """`about` is a line under the title of a page, `script` what its tables obey besides (see `script`)."""

    title: str
    sections: Sequence[Section]
    about: str = "measured with sage-eval"
    script: str = ""

    def markdown(self) -> str:
        """`report.md`."""
        shown = [
            f"## {text.escape(part.title)}\n\n{body(part.parts)}"
            for part in self.sections
            if part.parts and not part.page_only
        ]
        return "\n\n".join([f"# {text.escape(self.title)}", *shown]) + "\n"

    def page(self) -> "Page":
        """`report.html`, the same to the byte each time."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("sage_eval.render"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        # A page runs what it was made with and nothing else.
        runs = f"'sha256-{b64encode(sha256(self.script.encode()).digest()).decode()}'" if self.script else "'none'"
        made = environment.get_template("page.html").render(report=self, colours=variables(":root"), runs=runs)
        figures = {f"{svg.name}.svg": svg.alone() for part in self.sections for svg in part.figures}
        return Page(made, figures)


@dataclass(frozen=True)
class Page:
    """The page, and its figures as SVG files by name."""

    text: str
    figures: dict[str, str] = field(default_factory=dict)


def brief(sections: Sequence[Section]) -> list[Section]:
    """The sections without what is folded away."""
    return [replace(s, parts=[part for part in s.parts if not isinstance(part, Folded)]) for s in sections]


def script(name: str) -> str:
    """The text of a script among the templates."""
    return (files("sage_eval.render") / "templates" / name).read_text(encoding="utf-8")


def body(parts: Sequence[Part], heading: str = "**{}**") -> str:
    """Parts as Markdown; `heading` takes a table's title."""
    return "\n\n".join(_markdown(part, heading) for part in parts)


def terminal(sections: Sequence[Section], console: "Console") -> None:
    """Print the parts of sections; the first paragraph stands out."""
    for number, part in enumerate(part for shown in brief(sections) for part in shown.parts):
        if isinstance(part, Table):
            tables.terminal(part, console)
        elif isinstance(part, str):
            console.print(text.plain(text.minus(part)), style="" if number else "bold", markup=False, highlight=False)


def _markdown(part: Part, heading: str) -> str:
    if isinstance(part, str):
        return text.minus(part).strip("\n")
    if isinstance(part, Table):
        return tables.markdown(part, heading).strip()
    return f"<details><summary>{part.title}</summary>\n\n{body(part.parts, heading)}\n\n</details>"


def _html(parts: Sequence[Part]) -> "Markup":
    from markupsafe import Markup

    made = Markup("")
    for part in parts:
        if isinstance(part, str):
            made += text.html(text.minus(part))
        elif isinstance(part, Table):
            made += tables.html(part)
        else:
            made += Markup("<details><summary>{}</summary>\n{}</details>\n").format(
                text.inline(part.title), _html(part.parts)
            )
    return made
