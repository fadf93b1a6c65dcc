from pathlib import Path
from typing import Any

import pytest

from sage_eval.data.manifest import Manifest
from sage_eval.data.mmlu import SUBJECTS, read_split
from sage_eval.data.prepare import prepare
from sage_eval.data.wikitext import read_raw, rows
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from tests.data.folders import REAL, needs_real
from tests.data.hub_stub import COMMIT, hub, use_hub
from tests.data.standard import parquet


@pytest.fixture
def online(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that has the small folder's content as the real one has WikiText-2 and MMLU, and a model."""
    text = [{"text": row} for row in rows(read_raw(small_data, "test"))]
    (small_data / "wikitext2" / "wiki.valid.raw").write_text(" \n = A = \n \n Words . \n")
    files = {
        "datasets/Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet(text),
        "datasets/Salesforce/wikitext/wikitext-2-raw-v1/validation-00000-of-00001.parquet": parquet(text),
        "someone/model/config.json": b"{}",
        "someone/model/model.safetensors": b"weights",
        "someone/model/pytorch_model.bin": b"the same weights",
        "someone/model/original/consolidated.00.pth": b"the same weights",
    }
    for split in ("dev", "test"):
        table = [row for subject in SUBJECTS for row in read_split(small_data, split, subject)]
        files[f"datasets/cais/mmlu/all/{split}-00000-of-00001.parquet"] = parquet(table)
    with hub(files) as endpoint:
        use_hub(monkeypatch, endpoint)
        yield endpoint


def test_data_sets_from_the_hub_have_the_folders_format(online: str, small_data: Path, tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "out")
    assert read_raw(tmp_path / "out", "test") == read_raw(small_data, "test")
    for subject in ("anatomy", "virology"):
        assert read_split(tmp_path / "out", "test", subject) == read_split(small_data, "test", subject)
    assert len(manifest.files) == 2 + 2 * 57
    assert manifest.sources["mmlu"].revision == "c30699e8356da336a370243923dbaf21066bb9fe"
    assert Manifest.read(tmp_path / "out") == manifest


def test_a_model_is_fetched_at_its_commit_without_second_copies_of_the_weights(online: str, tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "out", "someone/model", datasets=())
    assert manifest.sources["someone/model"].revision == COMMIT
    folder = tmp_path / "out" / manifest.models["someone/model"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert sorted(manifest.files) == ["models/someone--model/config.json", "models/someone--model/model.safetensors"]


def test_hub_content_that_is_not_the_pinned_one_is_refused(
    online: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"wikitext2/wiki.test.raw": {"sha256": "0" * 64, "count": 7}}
    monkeypatch.setattr("sage_eval.data.folder.pins", lambda: wrong)
    with pytest.raises(DataError, match=r"wiki\.test\.raw is not the known file"):
        prepare(tmp_path / "out", datasets=["wikitext2"])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PrerequisiteError, match=r"cannot fetch Salesforce/wikitext: .*--from") as caught:
        prepare(tmp_path / "out", datasets=["wikitext2"])
    assert "\n" not in str(caught.value)


def test_a_folder_is_copied_and_found_whole(small_data: Path, tmp_path: Path) -> None:
    model = tmp_path / "weights"
    model.mkdir()
    (model / "config.json").write_text("{}")
    manifest = prepare(tmp_path / "out", str(model), datasets=["wikitext2", "haystack"], source=small_data)
    assert sorted(manifest.files) == ["haystack/book.txt", "models/weights/config.json", "wikitext2/wiki.test.raw"]
    assert Manifest.read(tmp_path / "out") == manifest


def test_a_second_run_keeps_what_the_first_brought(small_data: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "out", datasets=["wikitext2"], source=small_data)
    prepare(tmp_path / "out", datasets=["mmlu"], source=small_data)
    assert set(Manifest.read(tmp_path / "out").sources) == {"wikitext2", "mmlu"}
    assert "wikitext2/wiki.test.raw" in Manifest.read(tmp_path / "out").files


def test_a_folder_that_nobody_prepared_has_no_manifest(small_data: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        Manifest.read(small_data)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": 1, "fi')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        Manifest.read(tmp_path)


def test_unknown_and_unobtainable_data_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gsm8k.*haystack, wikitext2, mmlu"):
        prepare(tmp_path, datasets=["gsm8k"])
    with pytest.raises(UsageError, match="haystack is not on the hub"):
        prepare(tmp_path, datasets=["haystack"])
    with pytest.raises(DataError, match="no folder mmlu"):
        prepare(tmp_path, datasets=["mmlu"], source=tmp_path)


@needs_real
def test_the_real_folder_passes_its_pins(tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "out", datasets=["wikitext2", "mmlu"], source=REAL)
    assert "mmlu/test/anatomy_test.csv" in manifest.files
