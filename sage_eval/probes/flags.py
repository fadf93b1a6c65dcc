"""Flags that the probes' commands share, and what is done with them first. Imports nothing heavy."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_eval.errors import UsageError

Model = Annotated[str, typer.Argument(help="model folder or hub id")]
Arms = Annotated[
    str, typer.Option(help="BACKEND[+DECODE][:setting=value,…], separated by commas; the first is the baseline")
]
Articles = Annotated[int, typer.Option(min=1, help="articles of WikiText-2's test set")]
ModelArgs = Annotated[list[str] | None, typer.Option(help="name=value,… for all arms")]
DataDir = Annotated[Path | None, typer.Option(help="folder with the data sets; default: the hub")]
Output = Annotated[Path | None, typer.Option(help="run folder [default: results/PROBE-MODEL]")]
Json = Annotated[bool, typer.Option("--json", help="print the record instead of tables")]


def pairs(flag: str, given: list[str] | None) -> dict[str, Any]:
    """The names and values of a flag such as `--model-args`. `UsageError` where they are none."""
    from sage_eval.config import parse_pairs

    try:
        return parse_pairs(given or []) or {}
    except ValueError as error:
        raise UsageError(f"--{flag}: {error}") from None


def say(line: str) -> None:
    """Tell people how far a measurement is."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
