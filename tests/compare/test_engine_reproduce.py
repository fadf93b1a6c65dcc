"""The published run of the demo, made on another machine, comes out again with SGLang's engine here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sage_eval.store.files import read_json, write_json
from tests.compare.values import rewrite, twice

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]
PUBLISHED = Path(__file__).parents[2] / "results" / "demo-cpu"


def reproduce(folder, output):
    return subprocess.run(
        [sys.executable, "-m", "sage_eval.cli", "reproduce", str(folder), "--output", str(output), "--json"],
        cwd=PUBLISHED.parents[1], capture_output=True, text=True, check=False, timeout=1500,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The published run without its damaged arm, which takes a third of the time and has none of the numbers."""
    folder = Path(shutil.copytree(PUBLISHED, tmp_path_factory.mktemp("runs") / "demo"))
    shutil.rmtree(folder / "arms" / "control")
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"arms": ["baseline", "candidate"]})
    return folder


@pytest.fixture(scope="module")
def made(told):
    """What the command did."""
    return reproduce(told, told.with_name("again"))


def test_the_demos_numbers_come_out_again(made):
    assert made.returncode == 0, made.stderr
    numbers = json.loads(made.stdout)["numbers"]
    assert {number["task"] for number in numbers} >= {"sage_prose", "sage_retrieval"}
    assert all(number["agrees"] for number in numbers)
    assert "candidate (sage_attn): finished in" in made.stderr


def test_what_differs_here_is_named(made):
    differs = {name: sides for name, *sides in json.loads(made.stdout)["differs"]}
    assert "code" in differs
    assert "model" not in differs
    assert f"differs here: code: {' -> '.join(differs['code'])}" in made.stderr


def test_a_published_number_that_does_not_come_out_again_is_said(made, told):
    """The run that was just made is taken up: no engine starts."""
    assert made.returncode == 0, made.stderr
    other = Path(shutil.copytree(told, told.with_name("other")))
    rewrite(other / "arms" / "candidate" / "samples.parquet", twice)
    done = reproduce(other, told.with_name("again"))
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("finished earlier, kept") == 2
    wrong = [number for number in json.loads(done.stdout)["numbers"] if not number["agrees"]]
    assert {number["task"] for number in wrong} == {"sage_prose"}
    assert {number["of"] for number in wrong} == {"candidate", "difference"}
    assert all(number["then"]["value"] > 1.5 * number["now"]["value"] for number in wrong)
