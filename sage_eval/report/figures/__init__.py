"""The figures of a report, as SVG: pure functions of a run folder. matplotlib is imported when the first is drawn."""

from collections.abc import Iterator

from sage_eval.measure import fidelity
from sage_eval.render.figures import Drawing, Svg, svgs
from sage_eval.report.figures import dose, forest, heatmap, subjects
from sage_eval.store.folder import Run


def _fidelity(run: Run) -> Iterator[Drawing]:
    """Of the top-k lists."""
    if run.fidelity is not None:
        yield from fidelity.drawings(run.fidelity)


SECTIONS = {
    "differences": forest.figures,
    "fidelity": _fidelity,
    "subjects": subjects.figures,
    "retrieval": heatmap.figures,
    "dose": dose.figures,
}


def draw(run: Run) -> dict[str, list[Svg]]:
    """The figures that the run has data for, by the section of the report that they belong to."""
    return {section: svgs(make(run)) for section, make in SECTIONS.items()}
