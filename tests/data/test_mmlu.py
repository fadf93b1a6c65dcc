import shutil
from collections import Counter
from pathlib import Path

import pytest

from sage_eval.data import local_dataset
from sage_eval.data.mmlu import CATEGORIES, SUBJECTS, read_split, write_split
from sage_eval.errors import DataError


def test_subjects_and_subgroups_have_their_known_sizes() -> None:
    assert len(SUBJECTS) == 57
    assert Counter(SUBJECTS.values()) == {"stem": 19, "other": 13, "social_sciences": 12, "humanities": 13}
    assert set(CATEGORIES) == set(SUBJECTS.values())


def test_a_subject_has_the_hubs_columns_in_the_hubs_order(small_data: Path) -> None:
    first = local_dataset("cais/mmlu", "anatomy")["test"][1]
    assert first == {
        "question": " What is 1 in anatomy,\nsay? ",
        "subject": "anatomy",
        "choices": ["one", "tw,o", 'thr"ee', "four"],
        "answer": 1,
    }
    assert list(first) == ["question", "subject", "choices", "answer"]


def test_what_is_written_reads_back(small_data: Path, tmp_path: Path) -> None:
    questions = [row for subject in ("anatomy", "virology") for row in read_split(small_data, "dev", subject)]
    written = write_split(tmp_path / "again", "dev", questions)
    assert [path.name for path in written] == ["anatomy_dev.csv", "virology_dev.csv"]
    assert read_split(tmp_path / "again", "dev", "virology") == questions[5:]


@pytest.mark.parametrize("row", ["question,a,b,c,d,E", "question,a,b,c,A", "question,a,b,c,d,"])
def test_a_row_that_is_no_question_is_named(small_data: Path, row: str) -> None:
    path = small_data / "mmlu" / "test" / "anatomy_test.csv"
    path.write_text(f"q,a,b,c,d,A\n{row}\n")
    with pytest.raises(DataError, match=r"anatomy_test\.csv, row 2"):
        read_split(small_data, "test", "anatomy")


def test_the_validation_split_is_read_where_it_is_and_named_where_it_is_not(small_data: Path) -> None:
    """lm-eval's `mmlu_flan_cot_zeroshot` asks for it."""
    with pytest.raises(DataError, match=r"mmlu lacks the split 'validation' .*it has \['test', 'dev'\]"):
        local_dataset("cais/mmlu", "anatomy")["validation"]
    (small_data / "mmlu" / "val").mkdir()
    shutil.copy(small_data / "mmlu" / "test" / "anatomy_test.csv", small_data / "mmlu" / "val" / "anatomy_val.csv")
    found = local_dataset("cais/mmlu", "anatomy")
    assert found["validation"][0] == found["test"][0]


def test_lm_evals_task_is_refused_by_the_split_that_is_missing(small_data: Path) -> None:
    from sage_eval.compare.tasks import load_tasks

    with pytest.raises(DataError, match="lacks the split 'validation'"):
        load_tasks(["mmlu_flan_cot_zeroshot_anatomy"], "", {})
