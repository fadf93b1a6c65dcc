"""The notebook of the documentation: its cells run, and print what it shows."""

import ast
import contextlib
import io
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "may-i-switch.ipynb"


def execute(source, names):
    """What a cell prints, and the representation of its last expression."""
    *body, last = ast.parse(source).body
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if not isinstance(last, ast.Expr):
            body, last = [*body, last], None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    return printed.getvalue() + ("" if value is None else repr(value))


def test_every_cell_prints_what_is_shown(monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.chdir(NOTEBOOK.parent)
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            shown = ["".join(each.get("text") or each["data"]["text/plain"]) for each in cell["outputs"]]
            assert execute("".join(cell["source"]), names) == "".join(shown), "run the notebook again and save it"
