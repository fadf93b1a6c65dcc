"""`quick` on a real server: what it finds, against itself and another, in little time, and when the server dies."""

import json

import pytest

from sage_eval.cli import main
from sage_eval.measure.quick.record import QuickRecord
from tests.servers import serving

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture(scope="module")
def server(reference_model, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serving(reference_model, log, "--attention-backend", "sage_attn", "--context-length", "2200") as served:
        yield served


@pytest.fixture(scope="module")
def first(server, tmp_path_factory):
    """Exit code, file and record of a whole check."""
    file = tmp_path_factory.mktemp("quick") / "first.json"
    code = main(["quick", "--base-url", server.url, "--output", str(file), "--seconds", "400"])
    return code, file, QuickRecord.model_validate_json(file.read_text())


def test_a_server_without_fault_is_fine(first):
    code, _, record = first
    assert {check.name: check.state for check in record.checks} == dict.fromkeys(
        ("health", "logprobs", "prefill and decode agree", "determinism", "batches", "speed", "retrieval", "coverage"),
        "fine",
    )
    assert (code, record.missing, record.failed) == (0, {}, {})


def test_the_server_says_what_it_is(first):
    told = first[2].server
    assert told["attention_backend"] == "sage_attn"
    assert told["sage_attn"]["variant"] == "int8-fp16"
    assert told["dtype"] == "bfloat16"
    assert told["max_total_num_tokens"] > 0
    assert first[2].memory["weight"] > 0


def test_every_part_is_measured_at_the_lengths_that_fit(first):
    record = first[2]
    assert [row.input_tokens for row in record.speed] == [128, 1024]
    assert all(row.first and row.prefill and row.decode for row in record.speed)
    assert [row.length for row in record.retrieval] == [1024, 2048]
    assert [way.way for way in record.determinism] == ["repeat", "batched", "shuffled", "prefix"]
    assert record.logprobs.whole_mass == pytest.approx([1, 1], abs=1e-3)
    assert sum(tokens for name, tokens in record.coverage.items() if "/sage" in name) > 10_000


def test_little_time_leaves_parts_out_and_says_so(server, first, capsys):
    assert main(["quick", "--base-url", server.url, "--json", "--seconds", "10", "--against", str(first[1])]) == 2
    record = QuickRecord.model_validate(json.loads(capsys.readouterr().out))
    assert record.seconds < 30
    assert {check.name: check.state for check in record.checks}["against: logprobs"] == "fine"
    assert "could not tell" in {check.state for check in record.checks}


def test_a_server_that_dies_meanwhile_is_not_fine(server, capsys, monkeypatch):
    """The last of the module: the server is gone afterwards."""
    from sage_eval.measure.quick.ask import Asking

    monkeypatch.setattr("sage_eval.engine.client._FIRST_PAUSE", 0.01)
    monkeypatch.setattr(Asking, "_determinism", lambda _: server.kill())
    assert main(["quick", "--base-url", server.url, "--json", "--seconds", "60"]) == 1
    record = QuickRecord.model_validate(json.loads(capsys.readouterr().out))
    assert {check.name: check.state for check in record.checks}["speed"] == "not fine"
