"""Readers of old schemas: what an earlier version wrote, as what this version reads. No file is ever unreadable.

Each kind of record has a module here, whose `upgrade` turns schema 1 into schema 2, both as plain JSON values.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from sage_eval.errors import DataError

Value = dict[str, Any]


def upgrade(kind: str, value: Value) -> Value:
    """`value`, a record of `kind` in schema 1, in schema 2. Raises `LookupError` or `TypeError` where it is damaged."""
    upgraded: Value = import_module(f"{__name__}.{kind}").upgrade(value)
    return upgraded


def read_lines(path: Path) -> Any:
    """A record, or, of schema 1, the values of a file that has one per line. What follows its last newline is cut."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("{\n"):
            return json.loads(text)
        return {"schema_version": 1, "lines": [json.loads(line) for line in text.split("\n")[:-1]]}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path} is no record ({error}): choose another file") from None


def provenance(value: Value) -> Value:
    """The `Provenance` of a record in schema 1, which had its fields side by side and the code's under three names."""
    return {
        "created": value["created"],
        "commands": value["command"].splitlines(),
        "model": value["model"],
        "versions": value["versions"],
        "host": value["host"],
        "devices": value["devices"],
        "code": value.get("code") or value.get("source"),
    }
