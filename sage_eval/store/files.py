"""Files of a run folder: written whole or not at all, read with an error that says which file is broken."""

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import zstandard
from pydantic import BaseModel, ValidationError

from sage_eval.errors import DataError, PrerequisiteError

M = TypeVar("M", bound=BaseModel)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: a reader sees the old file or the new one, never half of one."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        advice = "free some space or" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable or"
        raise PrerequisiteError(f"cannot write {path}: {error.strerror}; {advice} choose another --output") from None


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON, indented by default; NaN and infinities become the strings "NaN", "±Infinity" (see `plain`)."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file; `DataError` where it is missing, cut or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; is this a finished run folder?") from None
    except ValueError as error:
        raise DataError(f"{path} is cut short or not JSON ({error}): delete it and repeat the run") from None


def read_record(model: type[M], path: Path) -> M:
    """The record in a JSON file; `DataError` where it is missing, damaged, or of another version than 1."""
    value = read_json(path)
    check_version(path, value, 1)
    return validate(model, value, path)


def check_version(path: Path, value: Any, *known: int) -> None:
    """`DataError` where `value`, which `path` begins with or consists of, has another schema version than `known`."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version not in known:
        raise DataError(f"{path} has schema_version {version!r}; this sage-eval reads {max(known)}: update it")


def validate(model: type[M], value: Any, path: Path) -> M:
    """`value`, read from `path`, as a `model`; `DataError` names the first field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from None


def write_jsonl_zst(path: Path, records: Iterable[Any]) -> None:
    """Write one compact JSON record a line, zstd-compressed with a checksum, so that a cut file is noticed."""
    lines = "".join(json.dumps(plain(r), separators=(",", ":"), ensure_ascii=False) + "\n" for r in records)
    # Long-distance matching finds the few-shot examples that thousands of prompts share.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        12, enable_ldm=True, window_log=24, write_checksum=True, write_content_size=True
    )
    write_bytes(path, zstandard.ZstdCompressor(compression_params=parameters).compress(lines.encode()))


def read_jsonl_zst(path: Path) -> Iterator[Any]:
    """Yield the records of such a file; `DataError` where it is missing, cut or altered."""
    try:
        text = zstandard.ZstdDecompressor().decompress(path.read_bytes()).decode()
        yield from (json.loads(line) for line in text.split("\n") if line)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; is this a finished run folder?") from None
    except (zstandard.ZstdError, ValueError) as error:
        raise DataError(f"{path} is cut short or damaged ({error}): delete it and repeat the run") from None


def plain(value: Any) -> Any:
    """`value` as what JSON has: numpy numbers as Python's, paths as text, other objects as `str`, NaN by name."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if value is None or isinstance(value, bool | int | str | float):
        return value
    return getattr(value, "__name__", None) or str(value)
