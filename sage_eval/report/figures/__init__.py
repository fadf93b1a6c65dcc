"""The figures of a report, as SVG: pure functions of a run folder. matplotlib is imported when the first is drawn."""

from sage_eval.report.figures import dose, fidelity, forest, heatmap, subjects
from sage_eval.report.figures.style import Svg, svgs
from sage_eval.runs.folder import Run

SECTIONS = {
    "differences": forest.figures,
    "fidelity": fidelity.figures,
    "subjects": subjects.figures,
    "retrieval": heatmap.figures,
    "dose": dose.figures,
}


def draw(run: Run) -> dict[str, list[Svg]]:
    """The figures that the run has data for, by the section of the report that they belong to."""
    return {section: svgs(make(run)) for section, make in SECTIONS.items()}
