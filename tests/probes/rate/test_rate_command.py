"""What the command ends with, of a measurement that is given."""

import pytest

from sage_eval.cli import main
from sage_eval.probes.rate import run
from tests.probes.rate.made_up import BASE, FAST


@pytest.mark.parametrize(("arms", "code"), [(BASE, 0), (f"{BASE},{FAST}", 1)])
def test_an_arm_fails_the_command_that_asked_for_it_and_no_later_one(measured, monkeypatch, tmp_path, arms, code):
    measured.arms[FAST].error = "it does not start"
    monkeypatch.setattr(run, "bench", lambda *_, **__: (measured, tmp_path))
    assert main(["bench", "rate", "--shape", "llama-3.1-8b", "--arms", arms]) == code
