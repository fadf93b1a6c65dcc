from pathlib import Path

import pytest

from sage_eval.data import DATA_ENV
from tests.data.folders import write_small


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder in use; its content is nobody's, so no hash is known."""
    monkeypatch.setattr("sage_eval.data.folder.pins", dict)
    monkeypatch.setenv(DATA_ENV, str(write_small(tmp_path / "small")))
    return tmp_path / "small"
