"""A part of a report that somebody else measured: text in Markdown, and figures. As Markdown and as HTML."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sage_eval.report.figures.style import Svg

if TYPE_CHECKING:
    from markupsafe import Markup

_FOLDED = re.compile(r"^<details><summary>(.*?)</summary>\n(.*?)^</details>$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """`name` is an anchor, `text` Markdown without the heading; its own headings are of the third level and deeper."""

    name: str
    title: str
    text: str
    figures: list[Svg] = field(default_factory=list)

    @property
    def page(self) -> "Markup":
        """`text` as HTML that loads nothing: what is folded away stays so, all other HTML and links stay words."""
        from markupsafe import Markup, escape

        # Text, title of a folded part, that part, text, …
        pieces = _FOLDED.split(self.text)
        folded = zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
        return Markup(_html(pieces[0], self.name)) + Markup("").join(
            Markup("<details><summary>{}</summary>{}</details>{}").format(
                escape(title), Markup(_html(part, self.name)), Markup(_html(after, self.name))
            )
            for title, part, after in folded
        )


def _html(text: str, name: str) -> str:
    """Markdown without HTML, links and images as HTML."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "reference"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type == "th_open":
            token.attrSet("scope", "col")
    html = str(parser.renderer.render(tokens, parser.options, {}))
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'
    return html.replace("<table>", scroll).replace("</table>", "</table></div>")


def section(name: str, text: str, figures: Sequence[Svg] = ()) -> Section:
    """Of a text that begins with its heading; the headings below move to the third level."""
    head, _, rest = text.lstrip().partition("\n")
    deeper = re.sub(r"^##? ", "### ", rest, flags=re.MULTILINE)
    return Section(name, head.lstrip("# "), deeper.strip() + "\n", list(figures))


def markdown(sections: Sequence[Section]) -> Iterator[str]:
    """Lines for `report.md`."""
    for part in sections:
        yield from (f"## {part.title}", "", part.text)


def document(title: str, sections: Sequence[Section]) -> str:
    """`report.md` of a folder that holds no comparison."""
    return "\n".join([f"# {title}", "", *markdown(sections)])
