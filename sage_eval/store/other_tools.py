"""Answers that other tools wrote, as samples: lm-eval's `samples_TASK_DATE.jsonl`, and sgl-eval's `output-rsN.jsonl`.

sgl-eval streams its lines as they are finished, one file for each repeat of all problems; the repeats of a problem are
one cluster.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_eval.errors import DataError
from sage_eval.store.samples import Sample, prompt_hash

_NAMES = ("samples_*.jsonl", "output-rs*.jsonl")


@dataclass(frozen=True)
class Answers:
    """What one arm answered, whoever asked."""

    name: str
    samples: list[Sample]


def read(path: Path) -> Answers:
    """The answers in a file, or in a folder's sample files. `DataError` where a line is neither tool's, or cut."""
    if not path.exists():
        raise DataError(f"there is no {path}")
    files = sorted(found for name in _NAMES for found in path.rglob(name)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no {' nor '.join(_NAMES)}: give a file, or a folder with such files")
    return Answers(str(path), [sample for file in files for sample in _samples(file)])


def _samples(file: Path) -> Iterator[Sample]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            yield _lm_eval(file, row) if "doc_id" in row else _sgl_eval(file, row)
        except (ValueError, KeyError, TypeError, SyntaxError) as error:
            why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise DataError(f"{file}, line {number}, is neither lm-eval's sample nor sgl-eval's ({why})") from None


def _lm_eval(file: Path, row: Mapping[str, Any]) -> Sample:
    named = re.fullmatch(r"samples_(.+?)(_\d{4}-\d\d-\d\dT[\d.:-]+)?", file.stem)
    # lm-eval writes numbers of answers as text: [["-1.23", "False"], …].
    scores = [found for found in row["filtered_resps"] if isinstance(found, list | tuple) and len(found) == 2]
    target = row["target"]
    if len(scores) > 1 and re.fullmatch(r"\d+", str(target)):
        target = int(target)
    return Sample(
        task=named[1] if named else file.stem,
        doc_id=row["doc_id"],
        filter=row.get("filter", "none"),
        prompt=prompt_hash([row.get("doc_hash"), row.get("prompt_hash"), row.get("target_hash")]),
        target=target,
        metrics={name: found for name in row["metrics"] if (found := _score(row.get(name))) is not None},
        logprobs=[float(value) for value, _ in scores],
        greedy=[bool(ast.literal_eval(str(greedy))) for _, greedy in scores],
        generated=[found for found in row["filtered_resps"] if isinstance(found, str)],
    )


def _score(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(x, int | float) for x in value):
        return tuple(value)
    return value if isinstance(value, int | float) else None


def _sgl_eval(file: Path, row: Mapping[str, Any]) -> Sample:
    known = [name for name in ("symbolic_correct", "score") if name in row]
    known = known or [name for name in row if name.endswith(("_correct", "_score"))]
    if not known:
        raise KeyError("no score")
    unique = hashlib.sha256(f"{file.stem}/{row['id']}".encode()).hexdigest()
    return Sample(
        task=file.resolve().parent.name,
        doc_id=int(unique[:12], 16),
        prompt=prompt_hash([row.get("problem"), row["expected_answer"]]),
        metrics={name: float(row[name]) for name in known},
        generated=[str(row.get("predicted_answer"))],
        cell={"cluster": str(row["id"])},
    )
