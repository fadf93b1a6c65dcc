from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def calibrated_run() -> Path:
    """A stored run with a floor, another exact kernel and a control; a loss is planted in its candidate."""
    return Path(__file__).parents[1] / "runs" / "stored" / "schema_1_calibrated"


@pytest.fixture(scope="session")
def old_run() -> Path:
    """A run folder as this version wrote it; it must be readable for ever."""
    return Path(__file__).parents[1] / "runs" / "stored" / "schema_1"
