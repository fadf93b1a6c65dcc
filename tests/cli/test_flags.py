"""Flags that are made of a plan's fields."""

from pathlib import Path

import pytest
import typer
from pydantic import BaseModel, DirectoryPath
from typer.testing import CliRunner

from sage_eval.cli.flags import command, parse, with_bare
from sage_eval.config import RunConfig, from_sources


class Plan(BaseModel):
    model: str | None = None
    count: int = 3
    text: tuple[Path, ...] = ()
    scratch: DirectoryPath | None = None


@pytest.fixture
def parsed():
    """`parsed(*words)`: the plan that a command gets."""
    got: list[Plan] = []
    app = typer.Typer()
    app.command()(command(Plan, lambda given: got.append(parse(Plan, given))))

    def run(*words: str) -> Plan:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return got[-1]

    return run


def test_flag_that_is_not_given_keeps_the_default(parsed):
    assert parsed("m") == Plan(model="m")


def test_files_are_given_one_by_one(parsed):
    assert parsed("m", "--text", "a.txt", "--text", "b.txt").text == (Path("a.txt"), Path("b.txt"))


def test_folder_that_must_exist_is_one_path(parsed, tmp_path):
    assert parsed("m", "--scratch", str(tmp_path)).scratch == tmp_path


@pytest.mark.parametrize(
    ("typed", "template"),
    [
        (["m", "--apply-chat-template"], True),
        (["m", "--apply-chat-template", "--limit", "3"], True),
        (["m", "--apply-chat-template", "tool_use"], "tool_use"),
        (["m"], False),
    ],
)
def test_a_flag_may_stand_without_its_value(typed, template):
    got = []
    app = typer.Typer()
    app.command()(command(RunConfig, lambda given: got.append(from_sources(given))))
    result = CliRunner().invoke(app, with_bare(typed), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert got[0].apply_chat_template == template
