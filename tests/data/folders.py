"""Data folders for tests: a small one made on the spot, and the real one where the host has it."""

import csv
import os
from pathlib import Path

import pytest

from sage_eval.data import DATA_ENV
from sage_eval.data.mmlu import SUBJECTS

ARTICLES = 40


def write_small(root: Path) -> Path:
    """A folder in the right format: 40 short articles, 5 dev and 2 test questions a subject, one book."""
    (root / "wikitext2").mkdir(parents=True)
    articles = (
        f" \n = Town {number} = \n \n"
        f" The town of {number} @,@ {number} souls lies on a river . {'It is old . ' * (1 + number % 7)}\n"
        f" \n = = History of {number} = = \n \n Nothing happened {'for years ' * (number % 5)}. \n"
        for number in range(ARTICLES)
    )
    (root / "wikitext2" / "wiki.test.raw").write_bytes("".join(articles).encode())
    for split, count in (("dev", 5), ("test", 2)):
        (root / "mmlu" / split).mkdir(parents=True)
        for subject in SUBJECTS:
            with (root / "mmlu" / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(
                    [f" What is {number} in {subject},\nsay? ", "one", "tw,o", 'thr"ee', "four", "ABCD"[number % 4]]
                    for number in range(count)
                )
    (root / "haystack").mkdir()
    (root / "haystack" / "book.txt").write_text(
        "\n\n".join(
            f"In chapter {n} the crew sighted land. They did\nnot stop, though {n} of them asked to." for n in range(90)
        )
    )
    return root


def real_folder() -> Path | None:
    """The folder of SAGE_EVAL_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    candidates = [Path(os.environ[DATA_ENV])] if os.environ.get(DATA_ENV) else [beside]
    return next((path for path in candidates if (path / "mmlu" / "test").is_dir()), None)


REAL = real_folder()
needs_real = pytest.mark.skipif(REAL is None, reason="needs WikiText-2 and MMLU in SAGE_EVAL_DATA")
