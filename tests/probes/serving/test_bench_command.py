"""What the command ends with, of a measurement that is given."""

import pytest

from sage_eval.cli import main
from sage_eval.probes.serving import run
from sage_eval.probes.serving.record import ArmRecord, Record


@pytest.mark.parametrize(("arms", "code"), [("fa3", 0), ("fa3,triton", 1)])
@pytest.mark.parametrize("kind", ["serving", "memory"])
def test_an_arm_fails_the_command_that_asked_for_it_and_no_later_one(monkeypatch, tmp_path, kind, arms, code):
    found = Record(
        kind=kind, created="", command="", baseline="fa3", model={"name": "m"}, settings={"engine": {}}, versions={},
        host={"cpu": "some CPU"}, devices=[],
        arms={"fa3": ArmRecord(arguments={}), "triton": ArmRecord(arguments={}, error="it does not start")},
    )  # fmt: skip
    monkeypatch.setattr(run, "bench", lambda *_, **__: (found, tmp_path))
    assert main(["bench", kind, "--shape", "llama-3.1-8b", "--arms", arms]) == code
