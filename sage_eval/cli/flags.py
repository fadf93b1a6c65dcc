"""A command's flags, made of a pydantic model's fields: each has one name, one type and one help text everywhere.

A field says more of its flag in `json_schema_extra`: `panel`, its heading in the help, `hidden`, `metavar`, `single`
for a flag without its opposite, and `bare`, what the flag means without a value. A field that is a model itself gives
a flag for each of its own fields.
"""

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sage_eval.errors import UsageError

M = TypeVar("M", bound=BaseModel)
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]

ARGV: list[str] = []
"""What was typed after `sage-eval`."""

_BARE: dict[str, str] = {}
"""Flags that may stand without a value, and the value that they then have: typer knows none such."""

_PLAIN = (bool, int, float, str, Path)
"""Types that typer reads by itself; any other one is text, which the field's own validator reads."""


def command(plan: type[BaseModel], run: Callable[..., None]) -> Callable[..., None]:
    """A function for typer that has a flag for each field of `plan`, and those of `run` besides.

    The field `model` is an argument. `run` gets what was given, by field, as its first argument; what was not is
    left out.
    """
    own = list(inspect.signature(run).parameters.values())[1:]
    listed = {
        name
        for name, field in plan.model_fields.items()
        if get_origin(_plain(field)) is tuple and _type(field) != list[Path]
    }
    nested = {name: model for name, field in plan.model_fields.items() if (model := _model(field))}

    def called(**values: Any) -> None:
        more = {parameter.name: values.pop(parameter.name) for parameter in own}
        given = {name: value for name, value in values.items() if value is not None and value != []}
        # A flag may be repeated, and its validator reads text.
        given |= {name: ",".join(value) for name, value in given.items() if isinstance(value, list) and name in listed}
        for name, model in nested.items():
            if inner := {field: given.pop(field) for field in model.model_fields if field in given}:
                given[name] = inner
        run(given, **more)

    parameters = [
        *_parameters(plan),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
    ]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__doc__ = run.__doc__
    return called


def parse(plan: type[M], given: dict[str, Any]) -> M:
    """`plan` of what was typed; `UsageError` that names the flag, the value and what is wrong with it."""
    try:
        return plan.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inner = map(str, first["loc"]) if first["loc"] else ["the flags"]
        flag = f"--{name.replace('_', '-')}"
        if first["type"] == "missing":
            raise UsageError(f"{flag} is missing") from None
        # A pair is named as it was typed; the place in a list says nothing.
        key = "".join(f"{part}=" for part in inner if not part.isdigit() and part != "[key]")
        raise UsageError(f"{flag} {key}{first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None


def with_bare(argv: Sequence[str]) -> list[str]:
    """`argv` with the value of each flag that stands without one."""
    found: list[str] = []
    for word, following in zip(argv, [*argv[1:], "-"], strict=True):
        found.append(word)
        if word in _BARE and following.startswith("-"):
            found.append(_BARE[word])
    return found


def say(line: str) -> None:
    """Tell people how far a command is."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _parameters(plan: type[BaseModel], panel: str | None = None) -> Iterator[inspect.Parameter]:
    for name, field in plan.model_fields.items():
        if field.exclude:  # the model decides it: see `Instrument.resolve`
            continue
        more = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if model := _model(field):
            yield from _parameters(model, panel=str(more.get("panel", name)))
            continue
        kind = _type(field)
        text = (field.description or "") + _default(field)
        flag = f"--{name.replace('_', '-')}"
        if bare := more.get("bare"):
            _BARE[flag], kind = str(bare), str
        option: Any = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool and not more.get("single") else flag,
            help=text,
            hidden=bool(more.get("hidden")),
            metavar=str(more["metavar"]) if "metavar" in more else None,
            rich_help_panel=str(more.get("panel", panel or "")) or None,
        )
        if name == "model":
            option = typer.Argument(help=text, show_default=False)
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
        )


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kind: Any = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _type(field: FieldInfo) -> Any:
    """What typer is to read: a plain type, a list of texts for many names or pairs, a list of files, or one text."""
    plain = _plain(field)
    if plain in _PLAIN:
        return plain
    if get_origin(plain) is tuple and get_args(plain)[0] is Path:
        return list[Path]
    return list[str] if get_origin(plain) in (dict, tuple) else str


def _plain(field: FieldInfo) -> Any:
    """The field's type, `None` and annotations aside."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else None
    if value is None or value is False or value in ((), {}, ""):
        return ""
    if isinstance(value, dict):
        value = [f"{name}={number}" for name, number in value.items()]
    shown = ",".join(map(str, value)) if isinstance(value, tuple | list) else value
    return f" [default: {shown}]"
