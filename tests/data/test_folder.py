import csv
import hashlib
from pathlib import Path

import pytest

import sage_eval
from sage_eval.data.folder import DATA_ENV, check_file, data_dir, digest, pins, tasks_dir
from sage_eval.errors import DataError
from tests.data.folders import REAL, needs_real


def test_no_folder_where_the_variable_is_unset_or_empty() -> None:
    assert data_dir({}) is None
    assert data_dir({DATA_ENV: ""}) is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent is not a folder.*sage-eval prepare"):
        data_dir({DATA_ENV: str(tmp_path / "absent")})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wiki\.test\.raw is missing"):
        check_file(tmp_path, "wikitext2/wiki.test.raw")


def test_a_cut_file_is_named_with_both_sizes_and_hashes(tmp_path: Path) -> None:
    name = "wikitext2/wiki.test.raw"
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / name).write_bytes(b"short")
    with pytest.raises(DataError) as caught:
        check_file(tmp_path, name)
    message = str(caught.value)
    expected = [
        str(tmp_path / name),
        "5 bytes",
        hashlib.sha256(b"short").hexdigest()[:16],
        "1290590 bytes",
        "173c87a53759e020",
    ]
    assert [part for part in expected if part not in message] == []
    assert "\n" not in message


def test_a_file_that_nobody_pinned_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    assert check_file(tmp_path, "own.txt") == tmp_path / "own.txt"


def test_csv_is_hashed_by_its_rows_whatever_their_quoting(tmp_path: Path) -> None:
    rows = [["a, b", "c"], ['say "d"', "e\nf"]]
    for name, quoting in (("some.csv", csv.QUOTE_MINIMAL), ("all.csv", csv.QUOTE_ALL)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file, quoting=quoting).writerows(rows)
    assert (tmp_path / "some.csv").read_bytes() != (tmp_path / "all.csv").read_bytes()
    assert digest(tmp_path / "some.csv") == digest(tmp_path / "all.csv")
    assert digest(tmp_path / "all.csv")["count"] == 2


@pytest.mark.parametrize("cut", range(1, 14))
def test_every_cut_of_a_csv_changes_its_hash_even_inside_a_character(tmp_path: Path, cut: int) -> None:
    (tmp_path / "whole.csv").write_bytes("a,b\nc,dé\né,f".encode())
    content = (tmp_path / "whole.csv").read_bytes()
    (tmp_path / "cut.csv").write_bytes(content[:-cut])
    assert digest(tmp_path / "cut.csv")["sha256"] != digest(tmp_path / "whole.csv")["sha256"]


def test_every_mmlu_file_is_pinned_with_the_known_numbers_of_questions() -> None:
    counts = {
        split: [pin["count"] for name, pin in pins().items() if f"mmlu/{split}/" in name] for split in ("dev", "test")
    }
    assert counts["dev"] == [5] * 57
    assert (len(counts["test"]), sum(counts["test"])) == (57, 14_042)


def test_tasks_are_found_in_a_checkout_and_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (tasks_dir() / "retrieval" / "_sage_retrieval.yaml").is_file()
    # site-packages/tasks may be a stranger's package: the wheel's own folder comes first.
    for folder in ("sage_eval/_tasks/mmlu", "tasks/mmlu"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(sage_eval, "__file__", str(tmp_path / "sage_eval" / "__init__.py"))
    assert tasks_dir() == tmp_path / "sage_eval" / "_tasks"


@needs_real
def test_the_pins_describe_the_canonical_files() -> None:
    assert REAL is not None
    for name in pins():
        if (REAL / name).is_file():
            check_file(REAL, name)
    # Of the original archive: the SHA-256 of all test files, concatenated in sorted order.
    content = b"".join(path.read_bytes() for path in sorted((REAL / "mmlu" / "test").glob("*.csv")))
    assert hashlib.sha256(content).hexdigest() == "fa58faff5210aee66e8791f191a56016fa3d33be6b7f484a1463ae5984b834e0"
