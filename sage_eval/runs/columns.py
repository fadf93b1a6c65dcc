"""`samples.jsonl.zst` since version 2: an arm's items by column, whole or as what differs from the baseline's.

    {"schema_version": 2, "items": 14042, "baseline": null}    or the SHA-256 of the baseline's file
    {"column": "task", "values": [...]}                        a value an item
    {"column": "metrics", "rows": [7, 90], "values": [...]}    beside the baseline: the items that differ
    {"column": "logprobs", "counts": [4, ...], "units": [...]} whole numbers of 1e-5 nats, item after item
    {"column": "logprobs", "differences": [...]}               beside the baseline: units − its units

Whole numbers n are written as the base-64 digits of 2n, or −2n − 1 where n < 0: one text for each place, lowest first.
The noise is in the low places, where six bits of it cost six bits, and the high ones compress to little. Nine arms of
all of MMLU take 1.2 MB so, and 5.6 MB with a line an item.
"""

import string
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from sage_eval.runs.records import UNITS, Sample

VERSION = 2
_ALPHABET = string.ascii_letters + string.digits + "-_"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_PLAIN = [name for name in Sample.model_fields if name != "logprobs"]


def encode(samples: Sequence[Sample], baseline: tuple[str, Sequence[Sample]] | None = None) -> list[dict[str, Any]]:
    """The records of the file; with `baseline` (its file's SHA-256, its samples) only what differs from that.

    An arm with other items than the baseline is written whole.
    """
    digest, base = baseline or (None, ())
    if [sample.key for sample in samples] != [sample.key for sample in base]:
        digest, base = None, ()
    rows, others = _rows(samples), _rows(base)
    records: list[dict[str, Any]] = [{"schema_version": VERSION, "items": len(samples), "baseline": digest}]
    for name in _PLAIN:
        column = [row[name] for row in rows]
        if digest is None:
            records.append({"column": name, "values": column})
            continue
        differing = [i for i, value in enumerate(column) if value != others[i][name]]
        if differing:
            records.append({"column": name, "rows": differing, "values": [column[i] for i in differing]})
    return [*records, _logprobs(samples, base)]


def decode(records: Iterable[Mapping[str, Any]], base: Sequence[Sample]) -> list[Sample]:
    """The samples; `base` are the baseline's where the header names one. ValueError where columns do not fit."""
    header, *columns = records
    rows = _rows(base) if header["baseline"] else [{} for _ in range(header["items"])]
    for column in columns:
        values = _read_logprobs(column, base) if column["column"] == "logprobs" else column["values"]
        for row, value in zip(column.get("rows", range(len(rows))), values, strict=True):
            rows[row][column["column"]] = value
    return [Sample.model_validate(row) for row in rows]


def _rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    return [dict(sample) for sample in samples]


def _logprobs(samples: Sequence[Sample], base: Sequence[Sample]) -> dict[str, Any]:
    counts = [len(sample.logprobs) for sample in samples]
    units, others = _units(samples), _units(base)
    if units is None:  # made by an older version, with other digits
        return {"column": "logprobs", "values": [sample.logprobs for sample in samples]}
    if others is not None and base and counts == [len(sample.logprobs) for sample in base]:
        return {"column": "logprobs", "differences": _digits([a - b for a, b in zip(units, others, strict=True)])}
    return {"column": "logprobs", "counts": counts, "units": _digits(units)}


def _read_logprobs(column: Mapping[str, Any], base: Sequence[Sample]) -> list[list[float]]:
    if "values" in column:
        return list(column["values"])
    if "differences" in column:
        counts = [len(sample.logprobs) for sample in base]
        units = [a + b for a, b in zip(_numbers(column["differences"]), _units(base) or [], strict=True)]
    else:
        counts, units = column["counts"], _numbers(column["units"])
    if sum(counts) != len(units):
        raise ValueError(f"{sum(counts)} logprobs expected, {len(units)} found")
    # Dividing by a power of ten gives the double nearest to the decimal number, which is what rounding to it gave.
    numbers = iter([unit / UNITS for unit in units])
    return [list(islice(numbers, count)) for count in counts]


def _digits(numbers: Sequence[int]) -> list[str]:
    rest = [2 * n if n >= 0 else -2 * n - 1 for n in numbers]
    places = []
    while any(rest):
        places.append("".join(_ALPHABET[n & 63] for n in rest))
        rest = [n >> 6 for n in rest]
    return [*places, str(len(rest))]


def _numbers(places: Sequence[str]) -> list[int]:
    *texts, count = places
    numbers = [0] * int(count)
    for shift, text in enumerate(texts):
        digits = [_VALUES[letter] << 6 * shift for letter in text]
        numbers = [n + digit for n, digit in zip(numbers, digits, strict=True)]
    return [-(n + 1) // 2 if n & 1 else n // 2 for n in numbers]


def _units(samples: Sequence[Sample]) -> list[int] | None:
    values = [value for sample in samples for value in sample.logprobs]
    units = [round(value * UNITS) for value in values]
    return units if all(unit / UNITS == value for unit, value in zip(units, values, strict=True)) else None
