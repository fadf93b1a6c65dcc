"""A prepared folder is whole only with all that it records."""

import shutil
from pathlib import Path

import pytest

from sage_eval.data.manifest import Manifest
from sage_eval.data.prepare import prepare
from sage_eval.errors import DataError


@pytest.fixture
def prepared(small_data: Path, tmp_path: Path) -> Path:
    model = tmp_path / "weights"
    model.mkdir()
    (model / "config.json").write_text("{}")
    prepare(tmp_path / "out", str(model), datasets=["wikitext2"], source=small_data)
    return tmp_path / "out"


def test_a_folder_without_its_models_is_not_whole(prepared: Path, small_data: Path) -> None:
    shutil.rmtree(prepared / "models")
    again = r"models/weights/config\.json is missing: run `sage-eval prepare .*weights --data-dir .*out` again"
    with pytest.raises(DataError, match=again):
        Manifest.read(prepared).check_present(prepared)
    with pytest.raises(DataError, match=again):
        prepare(prepared, datasets=["haystack"], source=small_data)
    assert "haystack/book.txt" in Manifest.read(prepared).files


def test_a_model_without_files_is_not_whole(prepared: Path) -> None:
    manifest = Manifest.read(prepared)
    del manifest.files["models/weights/config.json"]
    with pytest.raises(DataError, match="models/weights has no files"):
        manifest.check_present(prepared)
