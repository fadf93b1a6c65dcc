"""A record of `probe logits` as SVG: the spread of KLD, and the difference of NLL by position."""

from collections.abc import Iterator
from dataclasses import replace

from sage_eval.probes.logits.record import LogitsRecord
from sage_eval.report.figures import fidelity
from sage_eval.report.figures.style import Drawing, svgs


def figures(record: LogitsRecord) -> dict[str, str]:
    """The figures as SVG files, by name."""
    return {svg.name: svg.alone() for svg in svgs(drawings(record))}


def drawings(record: LogitsRecord) -> Iterator[Drawing]:
    """Up to two figures; to be taken within `style.theme()`."""
    for drawing in fidelity.drawings(record.fidelity):
        # A comparison's page may have a text of the same name.
        yield replace(drawing, name=f"logits-{drawing.name}")
