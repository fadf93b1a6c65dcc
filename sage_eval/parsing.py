"""What people type, as values: names and pairs in a text, and the nearest name to one that is not known."""

import contextlib
import difflib
import re
from collections.abc import Iterable
from typing import Any

import yaml


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"; did you mean a, b?"` for the names closest to `name`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(valid))
    return f"; did you mean {', '.join(close)}?" if close else ""


def parse_pairs(value: Any) -> Any:
    """`"a=1,b=[2,3]"` (or a list of such, or a JSON object) as `{"a": 1, "b": [2, 3]}`; values are read as YAML.

    Raises `ValueError` that names the part that cannot be read.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    pairs: dict[str, Any] = {}
    for text in map(str, value):
        pairs |= _scalar(text, text) if text.lstrip().startswith("{") else _pairs(text)
    return pairs


def _pairs(text: str) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in [part for part in re.split(r",(?![^\[]*\])", text) if part.strip()]:
        name, equals, scalar = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{item!r} is not of the form name=value")
        pairs[name.strip()] = _scalar(scalar, item)
    return pairs


def _scalar(text: str, item: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not a value"
        raise ValueError(f"{item!r} cannot be read ({problem}): is a bracket or a quote left open?") from None
    # YAML 1.1 takes 1e-3 for text.
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def split(value: Any) -> Any:
    """Names in text, separated by commas, or in a list of such, as a list of names; anything else as it is."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        return [part.strip() for text in value for part in str(text).split(",") if part.strip()]
    return value
