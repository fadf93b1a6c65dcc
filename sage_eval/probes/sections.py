"""What probes and benchmarks left in a folder, as sections of its report."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel

from sage_eval.errors import DataError
from sage_eval.probes.determinism import record as determinism
from sage_eval.probes.determinism import table as determinism_table
from sage_eval.probes.drift import figures as drift_figures
from sage_eval.probes.drift import record as drift
from sage_eval.probes.drift import table as drift_table
from sage_eval.probes.logits import figures as logits_figures
from sage_eval.probes.logits import record as logits
from sage_eval.probes.logits import table as logits_table
from sage_eval.probes.rate import figures as rate_figures
from sage_eval.probes.rate import record as rate
from sage_eval.probes.rate import table as rate_table
from sage_eval.probes.scoring import record as scoring
from sage_eval.probes.scoring import table as scoring_table
from sage_eval.probes.serving import record as serving
from sage_eval.probes.serving import table as serving_table
from sage_eval.report.figures.style import svgs
from sage_eval.report.sections import Section, section

READERS: dict[str, Callable[[Path], BaseModel]] = {
    logits.LOGITS: logits.read,
    drift.DRIFT: drift.read,
    determinism.DETERMINISM: determinism.read,
    serving.SERVING: serving.read,
    serving.MEMORY: serving.read,
    rate.RATE: rate.read,
    scoring.SCORING: scoring.read,
}
"""By file name, in the order of a report."""


def read(folder: Path) -> dict[str, BaseModel]:
    """The records in `folder` by file name. `DataError` where one is damaged."""
    return {name: reader(folder / name) for name, reader in READERS.items() if (folder / name).exists()}


def found(folder: Path) -> list[Section]:
    """A section for each record in `folder`. `DataError` where one is damaged."""
    return sections(folder, read(folder))


def sections(folder: Path, records: Mapping[str, BaseModel]) -> list[Section]:
    """A section for each of the records that were read from `folder`. `DataError` where one cannot be shown."""
    made = []
    for name, record in records.items():
        try:
            made.append(_section(Path(name).stem, record))
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # within what a schema leaves open
            raise DataError(f"{folder / name} is damaged ({error!r}): delete it and measure again") from error
    return made


def _section(name: str, record: BaseModel) -> Section:
    match record:
        case logits.LogitsRecord():
            return section(name, logits_table.markdown(record), svgs(logits_figures.drawings(record)))
        case drift.DriftRecord():
            return section(name, drift_table.markdown(record), svgs(drift_figures.drawings(record)))
        case determinism.Determinism():
            return section(name, determinism_table.markdown(record))
        case serving.Record():
            return section(name, serving_table.render(record))
        case rate.Record():
            return section(name, rate_table.render(record), svgs(rate_figures.drawings(record)))
        case scoring.Record():
            return section(name, scoring_table.markdown(record))
    raise TypeError(f"no section is made of {type(record)}")
