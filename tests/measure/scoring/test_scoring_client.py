"""The client alone, in a process of its own."""

import json

import pytest

from sage_eval.arms.worker import Worker
from sage_eval.cli import main
from sage_eval.measure.scoring.rows import Part
from sage_eval.store import record as records


@pytest.fixture(scope="module")
def command(reference_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("scoring")
    arguments = ["bench", "scoring", str(reference_model), "--parts", "client", "--requests", "2000,42000"]
    return [*arguments, "--arms", "torch_native", "--output", str(output)], output / "scoring.json"


@pytest.fixture(scope="module")
def measured(command):
    arguments, path = command
    assert main(arguments) == 0
    return records.read(Part, path, "scoring")


def test_what_the_client_needs_beyond_requests_and_results_is_little(measured):
    few, many = (row.client for row in measured.rows)
    assert (few.requests, many.requests) == (2000, 42_000)
    grown = (many.overhead - few.overhead) / 40_000
    assert grown < 300, f"{grown:.0f} bytes per request: payloads or replies are held all at once"


def test_record_says_nothing_of_the_machine(measured, reference_model):
    assert str(reference_model) not in json.dumps(measured.model_dump(exclude={"provenance": {"commands"}}))


def test_same_command_measures_nothing_again(measured, command, monkeypatch):
    monkeypatch.setattr(Worker, "__init__", lambda *_, **__: pytest.fail("a worker was started"))
    arguments, path = command
    assert main(arguments) == 0
    assert records.read(Part, path, "scoring").rows == measured.rows
