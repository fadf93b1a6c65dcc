"""A run in other people's formats: for a pull request, a paper, a table program, a model card, lm-eval's own tools.

An exporter is a function from a judged run to files by their names, and one line of `EXPORTERS`.
"""

import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

from sage_eval.report.export import layout, tables, texts
from sage_eval.store.folder import Run

EXPORTERS: Mapping[str, Callable[[Run], dict[str, bytes]]] = {
    "pr": texts.pull_request,
    "latex": tables.latex,
    "csv": tables.csv,
    "parquet": tables.parquet,
    "hf-card": texts.model_card,
    "lm-eval": layout.lm_eval,
}

_PATH = re.compile(r"(?<![\w.:/~-])(?:(?:~|\.\.?)/|/[\w.@%][\w.@+%-]*/)(?:[\w.@%][\w.@+%-]*/)*([\w.@%][\w.@+%-]*)/?")
_HOST = re.compile(r"(?<=://)(?:[\w.-]+:\d+|localhost|[\d.]+|[\w-]+)(?=[/\s\"',]|$)")


def export(run: Run, form: str, *, anonymise: bool = False) -> dict[str, bytes]:
    """The files of `run`, which has been judged, in one of `EXPORTERS`; `anonymise` drops host names and paths.

    Answers and prompts are left as they are: what is in them came from a data set or a model.
    """
    if not anonymise:
        return EXPORTERS[form](run)
    found = run.judged(run.comparison, run.fidelity)
    vars(found)["manifest"] = run.manifest.model_copy(update=_nameless(run.manifest.model_dump()))
    files = EXPORTERS[form](found)
    kept = (".parquet", ".jsonl")
    return {name: data if name.endswith(kept) else nameless(data.decode()).encode() for name, data in files.items()}


def nameless(text: str) -> str:
    """`text` with the last part of each path that says where somebody's folder lies, and without names of hosts."""
    text = _PATH.sub(lambda found: found[1], _HOST.sub("HOST", text))
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "HOST", text)


def _nameless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nameless(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_nameless(item) for item in value]
    return nameless(value) if isinstance(value, str) else value
