"""What was found of the arms' servers: which are asked, what is kept, shown and checked. No server is started here."""

import shutil
from pathlib import Path

import pytest

from sage_eval.compare import servers
from sage_eval.compare.plan import Plan
from sage_eval.compare.run import again
from sage_eval.compare.spec import arms
from sage_eval.config import RunConfig
from sage_eval.errors import DataError
from sage_eval.measure.determinism.instrument import Way
from sage_eval.measure.quick.judge import judge
from sage_eval.measure.quick.record import Logprobs, QuickRecord, Retrieval, Speed
from sage_eval.render.table import Table
from sage_eval.report.comparison import report
from sage_eval.report.servers import parts
from sage_eval.report.validate import misses
from sage_eval.store import load
from sage_eval.store.files import read_json, write_json


@pytest.fixture
def specs(model):
    config = RunConfig(model=str(model), servers=True, arms=("reorder",))
    return {spec.name: spec for spec in arms(config, "hash", {"sglang": "1"})}


def found(faster=1.0, apart=0.0, gib=1.0, hits=6, **changed):
    values = [[-1.0 - apart, -2.0], [-3.0 + 2 * apart, -2.0]]
    first, rates = [0.2 / faster, 0.1 / faster, 0.3 / faster], (100 * faster, 50 * faster)
    record = QuickRecord(
        created="2026-01-01T00:00:00+00:00",
        sage_eval="0.1.0",
        seconds=9.0,
        server={"model_path": "/models/tiny", "attention_backend": "triton"},
        logprobs=Logprobs(
            prompts="hash", values=values, top=20, listed_mass=0.9, whole_mass=[1.0], inversions=0, decoded_mean=0.001,
            decoded_largest=0.01,
        ),
        determinism=[Way(way="repeat", prompts=4, identical=4, mean=0.0, largest=0.0, same_output=4)],
        speed=[Speed(size="small", input_tokens=128, first=first, together=8, prefill=rates[0], decode=rates[1])],
        retrieval=[Retrieval(length=1024, asked=6, found=hits), Retrieval(length=2048, asked=6, found=6)],
        memory={"weight": 2.0, "kvcache": gib, "graph/decode": 0.0},
    ).model_copy(update=changed)  # fmt: skip
    record.checks = judge(record)
    return record


@pytest.fixture
def served(run, tmp_path):
    """A run whose arms were servers, the candidate's twice as fast."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    for name, record in {"baseline": found(), "candidate": found(2.0, 0.01, 1.5)}.items():
        arm = folder / "arms" / name
        value = read_json(arm / "arm.json")
        value["spec"]["model_args"]["serve"] = True
        write_json(arm / "arm.json", value)
        write_json(arm / "spec.json", value["spec"])
        write_json(arm / "quick.json", record.model_dump(mode="json"))
    (folder / "report.md").write_text(report(again(load(folder)), figures={}).markdown())
    return folder


def test_a_server_is_another_arm_than_an_engine_in_process(model, specs):
    local = arms(RunConfig(model=str(model)), "hash", {"sglang": "1"})[0]
    assert specs["baseline"].model_args == {**local.model_args, "serve": True}
    assert specs["baseline"].fingerprint() != local.fingerprint()


def test_the_servers_that_are_compared_are_asked_and_the_repeated_baseline(specs):
    assert {name for name, spec in specs.items() if servers.asked(spec)} == {"baseline", "candidate", "repeat"}
    assert {"reorder", "exact", "control"} < specs.keys()


def test_what_was_found_is_kept_for_more_items_of_the_same_arm_alone(specs, tmp_path):
    spec, file = specs["baseline"], tmp_path / "quick.json"
    for other, kept in (
        (spec.model_copy(update={"samples": {"sage_prose": [1]}}), True),
        (spec.model_copy(update={"limit": 3}), True),
        (spec.model_copy(update={"seed": 5}), False),
        (specs["candidate"], False),
    ):
        write_json(tmp_path / "spec.json", spec.model_dump(mode="json"))
        file.write_text("{}")
        servers.forget(other, tmp_path)
        assert file.exists() == kept


def test_the_report_has_speed_answers_and_memory_beside_the_baselines(served):
    speed, answers, memory = [part for part in parts(load(served)) if isinstance(part, Table)]
    first, second = ["| ".join(row) for row in speed.rows]
    assert first == "baseline| small| 128| 200 (100 to 300)| 100| 50"
    assert second == "candidate| small| 128| 100 (50 to 150) ×2.00| 200 ×2.00| 100 ×2.00"
    assert answers.header[-2:] == ("1,024", "2,048")
    assert [row[2:] for row in answers.rows] == [
        ["–", "–", "4/4", "6/6", "6/6"],
        ["0.0075", "0.02", "4/4", "6/6", "6/6"],
    ]
    assert memory.header == ("arm", "weight", "kvcache", "together")
    assert memory.rows[1][1:] == ["2.00 (+0.00)", "1.50 (+0.50)", "3.50 (+0.50)"]


def test_what_was_not_fine_is_said(served):
    odd = found(determinism=[Way(way="repeat", prompts=4, identical=1, mean=0.1, largest=0.2, same_output=3)])
    write_json(served / "arms" / "candidate" / "quick.json", odd.model_dump(mode="json"))
    said = [*parts(load(served))][-1]
    assert "- candidate: determinism: **not fine**: asked twice, 1 of 4 texts" in said
    assert "baseline: determinism" not in said


def test_a_run_without_servers_has_no_such_section(run):
    assert [*parts(run)] == []


def test_checks_that_do_not_follow_are_named(served):
    assert misses(served) == []
    file = served / "arms" / "candidate" / "quick.json"
    value = read_json(file)
    value["speed"] = []
    write_json(file, value)
    assert misses(served)[0] == "arms/candidate: the checks of quick.json do not follow from what it found"
    file.unlink()
    assert "quick.json" in misses(served)[0]


def test_an_arm_whose_servers_record_is_lost_is_not_finished(served):
    (served / "arms" / "baseline" / "quick.json").unlink()
    with pytest.raises(DataError, match=r"quick\.json"):
        servers.record(load(served).arms["baseline"])


def test_a_dry_run_names_the_servers_that_are_asked():
    planned = Plan(
        tasks=[], arms=2, tokens_per_second=1.0, rate_from="here", seconds=1.0, servers=["baseline", "candidate"]
    )
    assert "baseline, candidate are also asked what sage-eval quick asks, for at most 5 min each" in planned.text()
    assert "Servers" not in planned.model_copy(update={"servers": []}).text()
