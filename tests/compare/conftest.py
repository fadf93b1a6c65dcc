import json
import os
import shutil
from pathlib import Path

import pytest

from sage_eval.compare.run import compare
from sage_eval.config import RunConfig
from tests.compare.values import KEY, KEYS

TASKS = tuple(f"tests/compare/tasks/tiny_{name}.yaml" for name in ("choice", "perplexity", "needle"))


@pytest.fixture(scope="session", autouse=True)
def _in_the_checkout():
    """Task files are named relative to it, so that stored runs do not depend on where it lies."""
    before = Path.cwd()
    os.chdir(Path(__file__).parents[2])
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model folder as far as the runner looks: the language models of `lms.py` read no weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.fixture(scope="session")
def tiny(model):
    """A configuration that needs no engine; keyword arguments replace its fields."""

    def config(**values) -> RunConfig:
        fields = {"model": str(model), "lm": "tests.compare.lms:HashLM", "tasks": TASKS, "calibrate": False, **values}
        return RunConfig(**fields)

    return config


@pytest.fixture(scope="session")
def run(tiny, tmp_path_factory):
    """A finished run of three kinds of task. Read only."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        for name in KEYS:
            patch.setenv(name, KEY)
        return compare(tiny(output=output), argv=["compare", "MODEL"])


@pytest.fixture
def half(run, tmp_path):
    """The same run, stopped before its candidate arm: what a fault in that arm leaves."""
    folder = tmp_path / "half"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("candidate", "comparison.json", "report.md"))
    return folder
