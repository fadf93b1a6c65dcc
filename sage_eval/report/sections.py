"""A part of a report that somebody else measured: text in Markdown, and figures. As Markdown and as HTML."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sage_eval.report.figures.style import Svg

if TYPE_CHECKING:
    from markupsafe import Markup

_SUMMARY = re.compile(r"^<details><summary>(.*)</summary>$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """`name` is an anchor, `text` Markdown without the heading; its own headings are of the third level and deeper."""

    name: str
    title: str
    text: str
    figures: list[Svg] = field(default_factory=list)

    @property
    def page(self) -> "Markup":
        """`text` as HTML that loads nothing: what is folded away has a heading, HTML and links stay words."""
        from markdown_it import MarkdownIt
        from markupsafe import Markup

        parser = MarkdownIt("commonmark", {"html": False}).enable("table")
        parser.disable(["image", "link", "autolink", "reference"])
        tokens = parser.parse(_SUMMARY.sub(r"### \1", self.text).replace("</details>\n", ""))
        for token in tokens:
            if token.type == "th_open":
                token.attrSet("scope", "col")
        html = parser.renderer.render(tokens, parser.options, {})
        scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{self.name}"><table>'
        return Markup(html.replace("<table>", scroll).replace("</table>", "</table></div>"))


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
