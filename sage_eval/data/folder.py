"""The data folder, the tasks folder, and the SHA-256 of every file that is known."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypedDict

import sage_eval
from sage_eval.errors import DataError, PrerequisiteError

DATA_ENV = "SAGE_EVAL_DATA"


class Pin(TypedDict):
    """What a known file must be. `count` is bytes, or rows where the file is CSV."""

    sha256: str
    count: int


@cache
def pins() -> dict[str, Pin]:
    """The known files, by their path inside the data folder."""
    pinned: dict[str, Pin] = json.loads((Path(__file__).parent / "pins.json").read_text())
    return pinned


def data_dir(environ: Mapping[str, str] | None = None) -> Path | None:
    """The folder that `SAGE_EVAL_DATA` names, or None where it is unset: then data comes from the hub."""
    value = (os.environ if environ is None else environ).get(DATA_ENV)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise DataError(f"{DATA_ENV}={value} is not a folder: make it with `sage-eval prepare`, or unset {DATA_ENV}")
    return path.resolve()


def use_data(folder: Path | None) -> None:
    """Let the tasks read their data from `folder`; where it is None, from wherever the environment says."""
    if folder:
        os.environ[DATA_ENV] = str(folder)


def tasks_dir() -> Path:
    """The folder of task YAMLs: `sage_eval/_tasks` in an installed wheel, `tasks` in a checkout."""
    package = Path(sage_eval.__file__).parent
    for candidate in (package / "_tasks", package.parent / "tasks"):
        if (candidate / "mmlu").is_dir():
            return candidate
    raise PrerequisiteError(f"the task definitions are missing beside {package}: install sage-eval again")


def digest(path: Path) -> Pin:
    """SHA-256 and size of a file as the pins state them.

    CSV is hashed by its rows, so that a file written anew from the hub's tables, where quoting differs and content does
    not, has the digest of the original; `count` is rows there and bytes elsewhere.
    """
    content = path.read_bytes()
    if path.suffix != ".csv":
        return {"sha256": hashlib.sha256(content).hexdigest(), "count": len(content)}
    rows = read_rows(content)
    canonical = io.StringIO(newline="")
    csv.writer(canonical, lineterminator="\n").writerows(rows)
    return {"sha256": hashlib.sha256(canonical.getvalue().encode()).hexdigest(), "count": len(rows)}


def read_rows(content: bytes) -> list[list[str]]:
    """The rows of a CSV file; what is not UTF-8 (a cut inside a character) is replaced and so changes the digest."""
    return list(csv.reader(io.StringIO(content.decode(errors="replace"), newline="")))


def check_file(root: Path, name: str) -> Path:
    """The path of `name` under `root`, checked where its content is pinned; `DataError` names both digests."""
    path = root / name
    if not path.is_file():
        raise DataError(f"{path} is missing: run `sage-eval prepare --data-dir {root}`, or unset {DATA_ENV}")
    if (pin := pins().get(name)) and (found := digest(path)) != pin:
        unit = "rows" if path.suffix == ".csv" else "bytes"
        raise DataError(
            f"{path} is not the known file (cut short or changed): {found['count']} {unit}, SHA-256 "
            f"{found['sha256'][:16]}…; expected {pin['count']} {unit}, {pin['sha256'][:16]}…; fetch it again"
        )
    return path
