"""Texts of a report are Markdown. This is their one way into HTML and to a terminal, and the one escape.

A page loads nothing: HTML, images and links in a text stay words, except links to a file beside the page.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markupsafe import Markup

_MARKS = re.compile(r"([\\`*{}\[\]<>|~&$!]|(?<!\w)_|_(?!\w))|^(\s*)([#+\-]|\d+(?=[.)]))", re.MULTILINE)
_NEGATIVE = re.compile(r"((`+).*?\2)|(?:(?<![\w.\\\-])|(?<=\de))-(?=\.?\d)", re.DOTALL)
"""Code, which stays as it is, or the hyphen of a negative number."""


def escape(text: str) -> str:
    """Foreign text, such as a model's answer, as Markdown that shows it as it is."""
    return _MARKS.sub(_marked, text)


def _marked(found: re.Match[str]) -> str:
    mark, space, first = found.groups()
    if mark:
        return f"\\{mark}"
    return f"{space}\\{first}" if not first.isdigit() else f"{space}{first}\\"


def minus(text: str) -> str:
    """Negative numbers in a text with a minus sign, as wide as the plus."""
    return _NEGATIVE.sub(lambda found: found[1] or "\N{MINUS SIGN}", text)


def code(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def html(text: str) -> "Markup":
    """Paragraphs, headings, lists, tables and code as HTML."""
    from markupsafe import Markup

    parser = _parser()
    tokens = parser.parse(text)
    for token in tokens:
        if token.type == "th_open":
            token.attrSet("scope", "col")
    done = str(parser.renderer.render(tokens, parser.options, {}))
    scroll = '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
    return Markup(done.replace("<table>", scroll).replace("</table>", "</table></div>"))


def inline(text: str) -> "Markup":
    """A line as HTML, without a paragraph around it."""
    from markupsafe import Markup

    return Markup(str(_parser().renderInline(text)))


def plain(text: str) -> str:
    """A line for a terminal: without its marks."""
    return re.sub(r"\\(\W)", r"\1", re.sub(r"(?<!\\)(\*\*|`)", "", text))


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.validateLink = lambda url: re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", url) is not None  # type: ignore[method-assign]
    return parser.disable(["image", "autolink", "reference"])
