"""Runs `interpreted_kernels.py` in a process where Triton interprets kernels: it decides that when it is imported."""

import os
import subprocess
import sys
from pathlib import Path


def test_kernels_agree_with_the_definition_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name("interpreted_kernels.py"))]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
