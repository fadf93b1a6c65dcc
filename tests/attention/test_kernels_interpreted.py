"""Runs the files named below in processes of their own, since Triton decides how it runs when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["interpreted_kernels.py", "interpreted_backend.py"])
def test_under_tritons_interpreter(name: str) -> None:
    passes(name, interpreted=True)


def test_compiled_for_gpus_that_are_not_here() -> None:
    passes("compiled_kernels.py", interpreted=False)


def passes(name: str, *, interpreted: bool) -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name(name))]
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpreted))}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
    assert "SKIPPED" not in run.stdout, "SGLang's kit skips what it cannot build"
