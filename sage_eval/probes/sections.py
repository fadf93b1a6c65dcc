"""What probes and benchmarks left in a folder, as sections of its report. Each reader is imported when needed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sage_eval.report.sections import Section, section


def found(folder: Path) -> list[Section]:
    """A section for each record in `folder`, in a fixed order. `DataError` where one is damaged."""
    return [make(folder / name) for name, make in _MAKERS.items() if (folder / name).exists()]


def _logits(path: Path) -> Section:
    from sage_eval.probes.logits import record, table
    from sage_eval.report.figures.style import theme, to_svg

    read = record.read(path.parent)
    with theme():
        drawn = [to_svg(replace(drawing, name=f"logits-{drawing.name}")) for drawing in table.drawings(read)]
    return section("logits", table.markdown(read), drawn)


def _drift(path: Path) -> Section:
    from sage_eval.probes.drift import figures, record, table
    from sage_eval.report.figures.style import theme, to_svg

    read = record.read(path)
    with theme():
        drawn = [to_svg(drawing) for drawing in figures.drawings(read)]
    return section("drift", table.markdown(read), drawn)


def _determinism(path: Path) -> Section:
    from sage_eval.probes import determinism

    return section("determinism", determinism.markdown(determinism.read(path)))


def _serving(path: Path) -> Section:
    from sage_eval.probes.serving import record, table

    return section(path.stem, table.render(record.read(path)))


def _scoring(path: Path) -> Section:
    from sage_eval.probes.scoring import record, table

    return section("scoring", table.markdown(record.read(path)))


_MAKERS: dict[str, Callable[[Path], Section]] = {
    "logits.json": _logits,
    "drift.json": _drift,
    "determinism.json": _determinism,
    "serving.json": _serving,
    "memory.json": _serving,
    "scoring.json": _scoring,
}
