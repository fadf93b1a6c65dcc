"""Runs the files named below in a process where Triton interprets kernels: it decides that when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["interpreted_kernels.py", "interpreted_backend.py"])
def test_under_tritons_interpreter(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name(name))]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
