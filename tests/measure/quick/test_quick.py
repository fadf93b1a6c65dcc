"""What a record of `quick` means, how two compare, and what is no server; `test_quick_server.py` has a real one."""

import json

import pytest
from transformers import AutoTokenizer

from sage_eval.cli import main
from sage_eval.engine import client
from sage_eval.errors import EngineError, PrerequisiteError, UsageError
from sage_eval.measure.determinism.instrument import Way
from sage_eval.measure.quick.judge import exit_code, judge, overall, ratios
from sage_eval.measure.quick.record import Check, Logprobs, QuickRecord, Retrieval, Speed
from sage_eval.measure.quick.texts import ServerTokenizer
from sage_eval.measure.quick.view import view
from sage_eval.report.measurements import text
from sage_eval.store.files import write_json
from tests.servers import Small, answers, free_port

LOGPROBS = Logprobs(
    prompts="hash", values=[[-1.0, -2.0], [-3.0, -2.0]], top=20, listed_mass=0.9, whole_mass=[1.0], inversions=0,
    decoded_mean=0.001, decoded_largest=0.01,
)  # fmt: skip


def way(name, **changed):
    whole = {"prompts": 4, "identical": 4, "mean": 0.0, "largest": 0.0, "same_output": 4}
    return Way(way=name, **(whole | changed))


def record(**changed):
    fine = {
        "server": {"model_path": "/models/tiny", "attention_backend": "triton"},
        "logprobs": LOGPROBS,
        "determinism": [way("repeat"), way("batched", identical=1, mean=0.01)],
        "speed": [Speed(size="small", input_tokens=128, first=[0.2, 0.1, 0.3], together=8, prefill=100, decode=50)],
        "retrieval": [Retrieval(length=1024, asked=6, found=6), Retrieval(length=2048, asked=6, found=5)],
        "memory": {"weight": 1.5, "graph/decode": 0.0},
    }
    return QuickRecord(created="2026-01-01T00:00:00+00:00", sage_eval="0.1.0", **(fine | changed))


def states(checks):
    return {check.name: check.state for check in checks}


def changed(**fields):
    return LOGPROBS.model_copy(update=fields)


def test_a_server_without_fault_is_fine():
    checks = judge(record())
    assert set(states(checks).values()) == {"fine"}
    assert (overall(checks), exit_code(checks)) == ("fine", 0)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("logprobs", {"logprobs": changed(listed_mass=1.02)}),
        ("logprobs", {"logprobs": changed(whole_mass=[1.0, 0.98])}),
        ("logprobs", {"logprobs": changed(inversions=1)}),
        ("prefill and decode agree", {"logprobs": changed(decoded_mean=0.06)}),
        ("prefill and decode agree", {"logprobs": changed(decoded_largest=1.1)}),
        ("determinism", {"determinism": [way("repeat", same_output=3)]}),
        ("batches", {"determinism": [way("repeat"), way("batched", mean=0.06)]}),
        ("speed", {"failed": {"speed": "the server hangs"}}),
        ("health", {"failed": {"end": "no answer"}}),
        ("coverage", {"server": {"attention_backend": "sage_attn"}, "coverage": {"prefill/exact-sdpa": 10.0}}),
    ],
)
def test_each_fault_is_not_fine_by_its_own_check_alone(name, fields):
    checks = judge(record(**fields))
    assert [check.name for check in checks if check.state == "not fine"] == [name]
    assert exit_code(checks) == 1


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("logprobs", {"logprobs": None, "missing": {"logprobs": "the server does not tokenise"}}),
        ("determinism", {"determinism": [way("batched")]}),
        ("batches", {"determinism": [way("repeat")]}),
        ("speed", {"speed": []}),
        ("retrieval", {"retrieval": [Retrieval(length=1024, asked=6, found=0)]}),
        ("retrieval", {"retrieval": [Retrieval(length=n, asked=6, found=found) for n, found in ((1, 6), (2, 3))]}),
        ("coverage", {"server": {"prefill_attention_backend": "sage_attn"}}),
    ],
)
def test_what_was_not_measured_or_may_be_the_models_fault_cannot_be_told(name, fields):
    checks = judge(record(**fields))
    assert [check.name for check in checks if check.state != "fine"] == [name]
    assert exit_code(checks) == 2


def test_a_fault_outweighs_what_cannot_be_told():
    known = [Check(name=state, state=state, said="") for state in ("fine", "could not tell", "not fine")]
    assert (exit_code(known), exit_code(known[:2]), exit_code([])) == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "fields", "state"),
    [
        ("against: logprobs", {}, "fine"),
        ("against: logprobs", {"logprobs": changed(values=[[-1.0, -2.0], [-3.0, -2.3]])}, "not fine"),
        ("against: logprobs", {"logprobs": changed(prompts="other")}, "could not tell"),
        ("against: retrieval", {}, "fine"),
        ("against: retrieval", {"retrieval": [Retrieval(length=1024, asked=6, found=3)]}, "not fine"),
        ("against: retrieval", {"retrieval": [Retrieval(length=512, asked=6, found=6)]}, "could not tell"),
    ],
)
def test_a_record_is_compared_with_an_earlier_one(name, fields, state):
    assert states(judge(record(**fields), record()))[name] == state


def test_a_record_of_another_model_is_refused_wherever_it_lies():
    judge(record(), record(server={"model_path": "elsewhere/tiny"}))
    with pytest.raises(UsageError, match="of the model large, and the server serves tiny"):
        judge(record(), record(server={"model_path": "/models/large"}))


def test_speed_is_a_ratio_of_which_more_is_faster():
    speed = [Speed(size="small", input_tokens=128, first=[0.1], together=8, prefill=200, decode=None)]
    assert ratios(record(speed=speed), record()) == {"small": [2.0, 2.0, None]}


def test_the_table_shows_checks_speed_and_what_was_not_measured():
    one = record(retrieval=[], missing={"retrieval": "no time was left"})
    one.checks = judge(one)
    shown = text(view(one, record()))
    assert "**could not tell**: /models/tiny" in shown
    assert "| retrieval | could not tell | no time was left |" in shown
    assert "| small | 128 | 200 (100 to 300) ×1.00 | 100 ×1.00 | 50 ×1.00 |" in shown
    assert "| perplexity of the texts | 7.39 |" in shown
    assert "graph/decode" not in shown
    assert "Not measured: retrieval (no time was left)." in shown


def test_json_is_as_the_schema_says(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["schema", "quick"]) == 0
    schema = json.loads(capsys.readouterr().out)
    one = record()
    one.checks = judge(one)
    jsonschema.validate(json.loads(one.model_dump_json()), schema)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    server = Small()
    yield server
    server.close()


def test_where_nothing_answers_it_cannot_be_told(capsys):
    assert main(["quick", "--port", str(free_port())]) == 2
    assert "no SGLang server answers" in capsys.readouterr().err


def test_servers_are_asked_one_at_a_time(capsys):
    assert main(["quick", "--base-url", "http://a:1;http://b:1"]) == 2
    assert "one server at a time" in capsys.readouterr().err


def test_a_web_page_is_no_server(small, capsys):
    small.faults = {"/health_generate": [answers(200, "ok")], "/server_info": [answers(200, "<html>", "text/html")]}
    assert main(["quick", "--base-url", small.url]) == 2
    assert "is no SGLang server" in capsys.readouterr().err


def test_a_server_that_is_not_healthy_is_not_fine(small, capsys):
    small.faults = {"/health_generate": [answers(503, "scheduler is dead")] * 9}
    assert main(["quick", "--base-url", small.url]) == 1
    assert "answered 503: scheduler is dead" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"schema_version": 1, "kind": "compare"}', "{", '{"schema_version": 2}'])
def test_a_file_that_is_no_record_is_refused_before_the_server_is_asked(small, tmp_path, capsys, content):
    (tmp_path / "old.json").write_text(content)
    assert main(["quick", "--base-url", small.url, "--against", str(tmp_path / "old.json")]) == 2
    assert "old.json" in capsys.readouterr().err
    assert small.seen == []


def test_another_models_record_is_refused_before_anything_is_measured(small, tmp_path, capsys):
    write_json(tmp_path / "old.json", record(server={"model_path": "large"}).model_dump(mode="json"))
    small.faults = {"/health_generate": [answers(200, "ok")]}
    assert main(["quick", "--base-url", small.url, "--against", str(tmp_path / "old.json")]) == 2
    assert "of the model large, and the server serves tiny" in capsys.readouterr().err
    assert not [path for path, *_ in small.seen if path == "/generate"]


class Refusing:
    """A server of SGLang 0.5.17 whose tokenizer names no limit: `/tokenize` answers 500."""

    def ask(self, request):
        raise EngineError("the SGLang server answered 500: Internal Server Error")


def test_where_the_server_does_not_tokenise_its_files_are_read(reference_model):
    words = "Rivers meet here."
    found = ServerTokenizer(Refusing(), str(reference_model))(words, add_special_tokens=False)
    assert found["input_ids"] == AutoTokenizer.from_pretrained(reference_model).encode(words, add_special_tokens=False)


def test_where_its_files_are_elsewhere_it_is_said():
    with pytest.raises(PrerequisiteError, match="its tokenizer /elsewhere is not on this host"):
        ServerTokenizer(Refusing(), "/elsewhere")("Rivers meet here.")
