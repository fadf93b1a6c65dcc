import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def calibrated_run() -> Path:
    """A stored run with a floor, another exact kernel and a control; a loss is planted in its candidate."""
    return Path(__file__).parents[1] / "store" / "stored" / "schema_1_calibrated"


@pytest.fixture(scope="session")
def old_run() -> Path:
    """A run folder as this version wrote it; it must be readable for ever."""
    return Path(__file__).parents[1] / "store" / "stored" / "schema_1"


@pytest.fixture(scope="session")
def full_run(tmp_path_factory):
    """A run with all roles of arms, subjects, cells and fidelity.json, compared and rendered. Read only."""
    from tests.report.full_run import build

    return build(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def page(full_run):
    """Its page as text."""
    return (full_run.folder / "report.html").read_text()


@pytest.fixture(scope="session")
def measured_run(full_run, tmp_path_factory):
    """The same with a record of each probe and benchmark in its folder. Read only."""
    from sage_eval.compare.run import judge
    from sage_eval.report import pages
    from sage_eval.report.comparison import report
    from sage_eval.report.measurements import found
    from sage_eval.store import load
    from tests.report.measured import put

    folder = put(Path(shutil.copytree(full_run.folder, tmp_path_factory.mktemp("measured") / "run")))
    run = judge(load(folder), {"tiny_mmlu": 0.3}, {"accuracy": 0.02})
    pages.write(report(run, found(folder)), folder)
    return run
