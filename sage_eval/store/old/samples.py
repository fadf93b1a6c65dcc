"""`samples.jsonl.zst`: the answered items before they were kept as Parquet. Read, never written.

Version 1 has one JSON line per item. Version 2 has them by column, whole or as what differs from the baseline's:

    {"schema_version": 2, "items": 14042, "baseline": null}    or the SHA-256 of the baseline's file
    {"column": "task", "values": [...]}                        one value per item
    {"column": "metrics", "rows": [7, 90], "values": [...]}    beside the baseline: the items that differ
    {"column": "logprobs", "counts": [4, ...], "units": [...]} whole numbers of 1e-5 nats, item after item
    {"column": "logprobs", "differences": [...]}               beside the baseline: units − its units

Whole numbers n are base-64 digits of 2n, or −2n − 1 where n < 0: one text for each place, lowest first.
"""

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sage_eval.errors import DataError
from sage_eval.store.files import check_version, read_jsonl_zst, validate
from sage_eval.store.samples import Sample

FILE = "samples.jsonl.zst"
_UNITS = 100_000
_VALUES = {letter: value for value, letter in enumerate(string.ascii_letters + string.digits + "-_")}


def read(path: Path, baseline: Callable[[str], Sequence[Sample]]) -> list[Sample]:
    """The samples of either version; `baseline` gives those of the file with that SHA-256. `DataError` if damaged."""
    header, *lines = [*read_jsonl_zst(path)] or [None]
    check_version(path, header, 1, 2)
    if header["schema_version"] == 1:
        return [validate(Sample, line, path) for line in lines]
    base = baseline(header["baseline"]) if header["baseline"] else []
    try:
        return _decode([header, *lines], base)
    except (ValueError, LookupError, TypeError) as error:  # pydantic's error is a ValueError
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0]}): delete it and repeat the run") from None


def _decode(records: Iterable[Mapping[str, Any]], base: Sequence[Sample]) -> list[Sample]:
    header, *columns = records
    rows = [dict(sample) for sample in base] if header["baseline"] else [{} for _ in range(header["items"])]
    for column in columns:
        values = _read_logprobs(column, base) if column["column"] == "logprobs" else column["values"]
        for row, value in zip(column.get("rows", range(len(rows))), values, strict=True):
            rows[row][column["column"]] = value
    return [Sample.model_validate(row) for row in rows]


def _read_logprobs(column: Mapping[str, Any], base: Sequence[Sample]) -> list[list[float]]:
    if "values" in column:
        return list(column["values"])
    if "differences" in column:
        counts = [len(sample.logprobs) for sample in base]
        units = [a + b for a, b in zip(_numbers(column["differences"]), _units(base), strict=True)]
    else:
        counts, units = column["counts"], _numbers(column["units"])
    if sum(counts) != len(units):
        raise ValueError(f"{sum(counts)} logprobs expected, {len(units)} found")
    # Dividing by a power of ten gives the double nearest to the decimal number, which is what rounding to it gave.
    numbers = iter([unit / _UNITS for unit in units])
    return [list(islice(numbers, count)) for count in counts]


def _numbers(places: Sequence[str]) -> list[int]:
    *texts, count = places
    numbers = [0] * int(count)
    for shift, text in enumerate(texts):
        digits = [_VALUES[letter] << 6 * shift for letter in text]
        numbers = [n + digit for n, digit in zip(numbers, digits, strict=True)]
    return [-(n + 1) // 2 if n & 1 else n // 2 for n in numbers]


def _units(samples: Sequence[Sample]) -> list[int]:
    return [round(value * _UNITS) for sample in samples for value in sample.logprobs]
