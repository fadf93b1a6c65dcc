import errno
import json
import math

import numpy as np
import pytest

from sage_eval.errors import DataError, PrerequisiteError
from sage_eval.store import files

RECORDS = [{"text": "Zeile 1\u2028Zeile 2 ×"}, {"number": 0.1, "none": None}]


def test_jsonl_round_trip_keeps_line_separators(tmp_path):
    files.write_jsonl_zst(tmp_path / "a.zst", RECORDS)
    assert list(files.read_jsonl_zst(tmp_path / "a.zst")) == RECORDS


@pytest.mark.parametrize("keep", [0, 1, 10, -1])
def test_cut_jsonl_is_a_data_error(tmp_path, keep):
    path = tmp_path / "a.zst"
    files.write_jsonl_zst(path, RECORDS * 50)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.zst is cut short or damaged"):
        list(files.read_jsonl_zst(path))


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a.zst"
    files.write_jsonl_zst(path, [{"i": i, "x": math.sin(i)} for i in range(500)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        list(files.read_jsonl_zst(path))


def test_cut_json_is_a_data_error(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text()[:4])
    with pytest.raises(DataError, match=r"a\.json is cut short or not JSON"):
        files.read_json(tmp_path / "a.json")


def test_numbers_that_json_lacks_are_named(tmp_path):
    values = [float("nan"), np.float32("inf"), -math.inf, np.int64(3), np.arange(2), True]
    files.write_json(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text()) == ["NaN", "Infinity", "-Infinity", 3, [0, 1], True]


def test_full_disk_keeps_the_old_file_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, "old")

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PrerequisiteError, match=r"cannot write .*a\.json: No space left on device; free some space"):
        files.write_json(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", '"old"\n')]


def test_a_folder_that_cannot_be_made_is_a_prerequisite_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrerequisiteError, match="cannot write"):
        files.write_json(tmp_path / "file" / "a.json", 1)
