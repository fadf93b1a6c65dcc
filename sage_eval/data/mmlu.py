"""MMLU (Hendrycks et al. 2021) from CSV files: 57 subjects, 285 dev and 14,042 test questions."""

from pathlib import Path
from typing import Any

from sage_eval.data.folder import check_file, read_rows
from sage_eval.errors import DataError

HUB = "cais/mmlu"
LETTERS = "ABCD"

CATEGORIES: dict[str, str] = {
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
    "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
}
"""lm-eval's four subgroups, in its order, with their subjects."""

SUBJECTS: dict[str, str] = {subject: name for name, members in CATEGORIES.items() for subject in members.split()}
"""Subject → subgroup."""


def read_split(root: Path, split: str, subject: str) -> list[dict[str, Any]]:
    """The questions of one file, checked, as the hub's rows: question, subject, choices, answer (0 to 3)."""
    path = check_file(root, f"mmlu/{split}/{subject}_{split}.csv")
    questions = []
    for number, row in enumerate(read_rows(path.read_bytes()), start=1):
        if len(row) != 6 or row[5] not in tuple(LETTERS):
            raise DataError(
                f"{path}, row {number}: expected question, four choices and a letter A to D; got {row!r:.80}"
            )
        answer = LETTERS.index(row[5])
        questions.append({"question": row[0], "subject": subject, "choices": row[1:5], "answer": answer})
    return questions


def write_split(root: Path, split: str, questions: list[dict[str, Any]]) -> list[Path]:
    """Write the hub's rows as one CSV a subject; the inverse of `read_split`."""
    import csv

    folder = root / "mmlu" / split
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for subject in sorted({question["subject"] for question in questions}):
        path = folder / f"{subject}_{split}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [row["question"], *row["choices"], LETTERS[row["answer"]]]
                for row in questions
                if row["subject"] == subject
            )
        written.append(path)
    return written
