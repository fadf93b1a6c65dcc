"""The client alone, in a process of its own."""

import json

import pytest

from sage_eval.cli import main
from sage_eval.probes.scoring import record


@pytest.fixture(scope="module")
def measured(reference_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("scoring")
    arguments = ["bench", "scoring", str(reference_model), "--parts", "client", "--requests", "2000,42000"]
    assert main([*arguments, "--arms", "torch_native", "--output", str(output)]) == 0
    return record.read(output / record.SCORING)


def test_what_the_client_needs_beyond_requests_and_results_is_little(measured):
    few, many = measured.client
    assert (few.requests, many.requests) == (2000, 42_000)
    grown = (many.overhead - few.overhead) / 40_000
    assert grown < 300, f"{grown:.0f} bytes a request: payloads or replies are held all at once"


def test_nothing_of_the_machine_is_in_the_record(measured, reference_model):
    assert str(reference_model) not in json.dumps(measured.model_dump(exclude={"command"}), default=str)
