"""How every figure looks, and how a matplotlib figure becomes an SVG that follows the colours of its page.

Figures are drawn in the colours of a light page; each of them is then replaced by a CSS variable (`--candidate`, …) of
which it is the fallback, and ink by `currentColor`. The page defines the variables for light and dark; a figure saved
alone carries the same definitions. The colours are told apart without red and green (Okabe and Ito's palette, darkened
to a contrast of 4.5 on white), and each role has its own marker and line as well.
"""

import contextlib
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from sage_eval.render.text import minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER = "#1b1f24", "#fefefe"
LIGHT: Final = {
    "muted": "#5b636d", "grid": "#d5d9de", "paper": PAPER, "baseline": "#59616c",
    "candidate": "#0072b2", "floor": "#00795a", "control": "#b84700", "stress": "#94457c",
}  # fmt: skip
DARK: Final = {
    "muted": "#a2abb5", "grid": "#3a424b", "paper": "#14181d", "baseline": "#aab2bd",
    "candidate": "#56b4e9", "floor": "#2fbf94", "control": "#ff9554", "stress": "#e39acb",
}  # fmt: skip
DARK_INK = "#e6e9ed"
MARKERS = {"baseline": "o", "candidate": "o", "floor": "D", "control": "s", "stress": "^"}
LINES = {
    "baseline": ("-",),
    "candidate": ("-",),
    "floor": ("--", ":"),
    "control": ("-.", (0, (1, 1))),
    "stress": ("-",),
}

WIDTH = 5.1
"""Inches, at 72 units each: narrow enough that such text can be read on a phone."""
POINTS = 9.5
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that stand for it: `name` is that of its file."""

    name: str
    title: str
    description: str
    figure: "Figure"


@dataclass(frozen=True)
class Svg:
    """A drawing as an `<svg>` element to be put into a page."""

    name: str
    title: str
    description: str
    text: str

    def alone(self) -> str:
        """The same as a file of its own, which follows the reader's light or dark setting."""
        start, rest = self.text.split(">", 1)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{start}><style>{variables("svg")}</style>{rest}\n'


def variables(selector: str) -> str:
    """The colours as CSS, for light and for dark."""

    def block(ink: str, colours: dict[str, str]) -> str:
        return "".join(f"--{name}:{value};" for name, value in colours.items()) + f"color:{ink};background:var(--paper)"

    dark = f"@media (prefers-color-scheme:dark){{{selector}{{{block(DARK_INK, DARK)}}}}}"
    return f"{selector}{{{block(INK, LIGHT)}}}\n{dark}"


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Settings of matplotlib while figures are made and saved, whatever the user's own are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({
            "svg.fonttype": "none", "svg.hashsalt": "sage-eval", "text.parse_math": False,
            "font.family": "DejaVu Sans", "font.size": POINTS, "axes.titlesize": POINTS, "axes.labelsize": POINTS,
            "xtick.labelsize": POINTS - 1, "ytick.labelsize": POINTS - 1, "legend.fontsize": POINTS - 1,
            "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.labelcolor": INK,
            "ytick.labelcolor": INK, "xtick.color": LIGHT["muted"], "ytick.color": LIGHT["muted"],
            "axes.edgecolor": LIGHT["muted"], "grid.color": LIGHT["grid"], "axes.facecolor": "none",
            "figure.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
            "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.axisbelow": True,
        })  # fmt: skip
        yield


def svgs(drawings: Iterable[Drawing]) -> list[Svg]:
    """Save `drawings`, which are made here and now where it is a generator: within `theme`."""
    with theme():
        return [to_svg(drawing) for drawing in drawings]


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, list[Axes]]":
    """An empty figure of the common width, `height` inches high, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def log_label(value: float, _position: int | None = None) -> str:
    """A power of ten as text: axes in mathematical notation would need a TeX parser in the browser."""
    if value <= 0:
        return ""
    exponent = math.log10(value)
    return f"10{str(round(exponent)).translate(_SUPERSCRIPT)}" if abs(exponent - round(exponent)) < 1e-9 else ""


def file_name(*parts: str) -> str:
    """Words as the name of a file or an id: task names may hold anything."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def strokes(roles: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Colour, line and marker of each arm, by the arms' roles: arms of one role differ by one of them."""
    seen: Counter[str] = Counter()
    for role in roles:
        index, lines = seen[role], LINES[role]
        seen[role] += 1
        # A second candidate takes the colour of the stress arms.
        ink = LIGHT["stress" if role == "candidate" and index % 2 else role]
        face = LIGHT["paper"] if role == "candidate" and index > 1 else ink
        yield {
            "color": ink, "linestyle": lines[index % len(lines)], "marker": MARKERS[role], "markerfacecolor": face,
        }  # fmt: skip


def beside(
    ax: "Axes", groups: Sequence[str], values: Mapping[str, Mapping[str, float]], roles: Sequence[str], start: float
) -> None:
    """Draw a group of horizontal lines for each of `groups`, top down: from `start` to each arm's value in it.

    `values` are by arm and group; an arm may lack some. `roles` are the arms'.
    """
    places = {group: place for place, group in enumerate(groups)}
    for number, ((name, mine), style) in enumerate(zip(values.items(), strokes(roles), strict=True)):
        offset = 0.8 * ((number + 0.5) / len(values) - 0.5)
        for index, (group, value) in enumerate(mine.items()):
            y = places[group] + offset
            [line] = ax.plot([start, value], [y, y], **style, markevery=[1], markersize=4.5, linewidth=1.2)
            line.set_label("_" if index else name)
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.6)


def legend_columns(labels: Sequence[str]) -> int:
    """As many columns as fit the common width."""
    return max(1, min(len(labels), 3, 76 // (max(map(len, labels), default=0) + 8)))


def to_svg(drawing: Drawing) -> Svg:
    """Save as SVG, byte for byte the same every time; ids begin with the name, so that a page can hold many."""
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    for prefix, uri in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        # matplotlib's style sheet would reach every other figure of the page.
        for child in [c for c in parent if c.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
            parent.remove(child)
    _set_ids(root, drawing.name)
    for element in root.iter():
        _follow(element)
        if element.tag == f"{{{_SVG}}}text" and element.text:
            element.text = minus(element.text)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("style", "font-family:system-ui,sans-serif;stroke-linejoin:round;stroke-linecap:butt")
    words = (("title", drawing.title), ("desc", drawing.description))
    for index, (tag, text) in enumerate(words):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{drawing.name}-{tag}"})
        child.text = minus(text)
        root.insert(index, child)
    root.set("role", "img")
    root.set("aria-labelledby", " ".join(f"{drawing.name}-{tag}" for tag, _ in words))
    text = re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))
    return Svg(drawing.name, drawing.title, minus(drawing.description), text)


def _set_ids(root: ElementTree.Element, name: str) -> None:
    """Keep the ids that are referred to, under names that no other figure has."""
    everything = " ".join(value for element in root.iter() for key, value in element.items() if key != "id")
    used = set(re.findall(r"#([A-Za-z_][\w-]*)", everything))
    for element in root.iter():
        if (identity := element.attrib.pop("id", None)) in used:
            element.set("id", f"{name}-{identity}")
        for key, value in element.items():
            if key == f"{{{_XLINK}}}href":
                element.set(key, value.replace("#", f"#{name}-"))
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))


def _follow(element: ElementTree.Element) -> None:
    """Colours that follow the page, its font, and coordinates to a hundredth of a unit."""
    if style := element.get("style"):
        style = re.sub(r"font-family:[^;]*;?\s*", "", style).replace(INK, "currentColor")
        for name, colour in LIGHT.items():
            style = style.replace(colour, f"var(--{name},{colour})")
        element.set("style", style)
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for key in ("d", "x", "y", "width", "height", "points", "transform"):
        if value := element.get(key):
            short = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
            element.set(key, " ".join(short.split()))
