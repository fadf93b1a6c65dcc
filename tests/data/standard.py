"""Small data sets in the exact form of the published ones: what RULER, LongBench v2, GSM8K, GPQA and MMLU-Pro load."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml

SQUAD = "rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"
HOTPOT = (
    "huggingface.co/datasets/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/"
    "hotpot_dev_distractor_v1.json"
)
LONGBENCH = [
    "academic_multi", "academic_single", "agent_history_qa", "code_repo_qa", "detective", "dialogue_history_qa",
    "event_ordering", "financial_multi", "financial_single", "government_multi", "government_single",
    "graph_reasoning", "legal_multi", "legal_single", "literary", "manyshot_learning", "multinews",
    "new_language_translation", "table_qa", "user_guide_qa",
]  # fmt: skip
MMLU_PRO = [
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law",
    "math", "other", "philosophy", "physics", "psychology",
]  # fmt: skip


def repositories() -> dict[str, bytes]:
    """Every file of the hub's data sets, by "OWNER/NAME/PATH"."""
    return {
        **_gsm8k(),
        **_gpqa(),
        **_mmlu_pro(),
        **_longbench(),
        "baber/paul_graham_essays/README.md": _card({"default": {"train": "data/train-*"}}),
        "baber/paul_graham_essays/data/train-00000-of-00001.parquet": parquet(
            [{"title": f"Essay {n}", "text": _prose(n, 400)} for n in range(20)]
        ),
    }


def web() -> dict[str, bytes]:
    """The files that RULER's question tasks read by address, by "HOST/PATH"; they ask the first 500 questions."""
    squad = [
        {
            "title": f"Town {town}",
            "paragraphs": [
                {
                    "context": f"The town of {town}-{part} has {town * part + 7} souls. {_prose(town + part, 20)}",
                    "qas": [
                        {
                            "question": f"How many souls has {town}-{part}?",
                            "id": f"{town}-{part}",
                            "answers": [{"text": f"{town * part + 7}", "answer_start": 0}],
                            "is_impossible": False,
                        },
                        {"question": "Who?", "id": f"x{town}-{part}", "answers": [], "is_impossible": True},
                    ],
                }
                for part in range(10)
            ],
        }
        for town in range(52)
    ]
    hotpot = [
        {
            "_id": f"{n}",
            "question": f"Which river is by hill {n}?",
            "answer": f"river {n}",
            "type": "bridge",
            "level": "hard",
            "supporting_facts": [[f"Hill {n}", 0]],
            "context": [[f"Hill {n + k}", [f"Hill {n + k} is by river {n + k}.", " It is green."]] for k in range(3)],
        }
        for n in range(510)
    ]
    return {
        SQUAD: json.dumps({"version": "v2.0", "data": squad}).encode(),
        HOTPOT: json.dumps(hotpot).encode(),
    }


def punkt() -> dict[str, bytes]:
    """NLTK's `punkt_tab` as far as English goes, with no abbreviations learned."""
    names = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
    return {f"tokenizers/punkt_tab/english/{name}": b"" for name in names}


def punkt_zip() -> bytes:
    """The same as NLTK's server sends it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in punkt().items():
            archive.writestr(name.removeprefix("tokenizers/"), content)
    return buffer.getvalue()


def write_folder(root: Path) -> Path:
    """A data folder with all of it."""
    parts = {"hub": repositories(), "web": web(), "nltk_data": punkt()}
    for part, contents in parts.items():
        for name, content in contents.items():
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def parquet(table: list[dict[str, Any]]) -> bytes:
    """A table as the hub stores it."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), buffer)
    return buffer.getvalue()


def _card(configs: dict[str, dict[str, str]]) -> bytes:
    """README.md whose front matter says which configuration has which files, by split."""
    table = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': table})}---\n# Data\n".encode()


def _prose(seed: int, sentences: int) -> str:
    return " ".join(f"In year {seed * 31 + n} the ships of harbour {n} came home." for n in range(sentences))


def _gsm8k() -> dict[str, bytes]:
    def rows(split: str) -> bytes:
        return parquet(
            [
                {
                    "question": f"Ann has {n} apples and buys {n + 2} ({split}). How many apples has she now?",
                    "answer": f"{n} + {n + 2} = <<{n}+{n + 2}={2 * n + 2}>>{2 * n + 2} apples.\n#### {2 * n + 2}",
                }
                for n in range(8)
            ]
        )

    name = "openai/gsm8k"
    configs = {config: {split: f"{config}/{split}-*" for split in ("train", "test")} for config in ("main", "socratic")}
    return {f"{name}/README.md": _card(configs)} | {
        f"{name}/{config}/{split}-00000-of-00001.parquet": rows(split)
        for config in configs
        for split in configs[config]
    }


def _gpqa() -> dict[str, bytes]:
    name = "Idavidrein/gpqa"
    names = [f"gpqa_{subset}" for subset in ("extended", "main", "diamond", "experts")]
    columns = [
        "Pre-Revision Question", "Pre-Revision Correct Answer", "Question", "Correct Answer", "Incorrect Answer 1",
        "Incorrect Answer 2", "Incorrect Answer 3", "Explanation", "Subdomain", "Writer's Difficulty Estimate",
        "Record ID", "High-level domain", "Canary String",
    ]  # fmt: skip
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow(columns)
    for n in range(8):
        table.writerow(
            [
                f"old {n}", f"old answer {n}", f"What is the energy,\nof level {n}?", f"{n} eV", f"{n + 10} eV ",
                f"-{n} eV", f"{n}  keV", "Because.", "Physics (general)", "Hard", f"rec{n}", "Physics", "",
            ]
        )  # fmt: skip
    return {f"{name}/README.md": _card({config: {"train": f"{config}.csv"} for config in names})} | {
        f"{name}/{config}.csv": buffer.getvalue().encode() for config in names
    }


def _mmlu_pro() -> dict[str, bytes]:
    def rows(split: str, count: int) -> bytes:
        return parquet(
            [
                {
                    "question_id": 100 * at + n,
                    "question": f"Which of these is {n} in {category} ({split})?",
                    "options": [f"{k}" for k in range(10 - n % 3)],
                    "answer": "ABCDEFGHIJ"[n],
                    "answer_index": n,
                    "cot_content": f"A: Let's think step by step. It says {n}. The answer is ({'ABCDEFGHIJ'[n]})."
                    if split == "validation"
                    else "",
                    "category": category,
                    "src": "made",
                }
                for at, category in enumerate(MMLU_PRO)
                for n in range(count)
            ]
        )

    name = "TIGER-Lab/MMLU-Pro"
    return {
        f"{name}/README.md": _card({"default": {"test": "data/test-*", "validation": "data/validation-*"}}),
        f"{name}/data/test-00000-of-00001.parquet": rows("test", 3),
        f"{name}/data/validation-00000-of-00001.parquet": rows("validation", 5),
    }


def _longbench() -> dict[str, bytes]:
    name = "recursal/longbench-v2"
    rows = [
        {
            "_id": f"id{n}", "domain": "Single-Document QA", "sub_domain": "Literary", "difficulty": "easy",
            "length": "short", "question": f" Which harbour is number {n}? ", "choices": ["a", "b", "c", "d"],
            "answer": "ABCD"[n % 4], "context": _prose(n, 60),
        }
        for n in range(3)
    ]  # fmt: skip
    return {f"{name}/README.md": _card({config: {"train": f"{config}/train-*"} for config in LONGBENCH})} | {
        f"{name}/{config}/train-00000-of-00001.parquet": parquet(rows) for config in LONGBENCH
    }
