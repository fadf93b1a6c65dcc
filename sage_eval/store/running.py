"""`running.jsonl`: what an arm's process says of its items while it runs, for `sage-eval watch`.

The first line says what is asked, each other one is an item that is finished: a `Sample` with its metrics and nothing
else. It is appended to as items finish and begun anew whenever the arm is; nobody else reads it, and it is deleted once
all arms are finished. A reader takes the whole lines, so that one which is being written is no fault.
"""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sage_eval.store.comparison import MetricKind
from sage_eval.store.samples import Sample


class Asked(BaseModel):
    """The first line: items and requests there are, and how a metric of a task is averaged.

    `groups` are the outermost groups of tasks, by task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    items: dict[str, int]
    requests: dict[str, int]
    groups: dict[str, str] = {}
    kinds: dict[str, dict[str, MetricKind | None]]


def read(path: Path) -> tuple[Asked, list[Sample]] | None:
    """What is asked and the items finished so far; None where there is no such file, or none that can be read yet."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        asked = Asked.model_validate_json(lines[0]) if lines else None
    except (OSError, ValidationError):
        return None
    found: list[Sample] = []
    for line in lines[1:]:
        try:
            task, doc_id, chosen, metrics, cell = json.loads(line)
            found.append(Sample(task=task, doc_id=doc_id, filter=chosen, prompt="", metrics=metrics, cell=cell))
        except (ValueError, TypeError):
            break  # a full disk cut it
    return (asked, found) if asked else None


def line(sample: Sample) -> str:
    """A finished item as a line of the file."""
    return json.dumps([sample.task, sample.doc_id, sample.filter, sample.metrics, sample.cell]) + "\n"
