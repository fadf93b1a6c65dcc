"""What all instruments share: the record and going on with it, the baseline beside a new arm, arms that fail."""

import json
from typing import Any

import pytest
from pydantic import Field

from sage_eval.arms.worker import Worker
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.measure.base import Instrument, Row, SpeedPlan, View
from sage_eval.store import record as records


class Plan(SpeedPlan):
    sizes: int = Field(2, ge=1)


class Measured(Row):
    answer: dict[str, Any]


class Tiny(Instrument[Plan, Measured]):
    """Asks each arm for an echo."""

    kind, title = "tiny", "Tiny"
    plan, row = Plan, Measured
    worker = "tests.arms.obeying:Obeying"

    def settings(self, plan):
        return {"seed": plan.seed}

    def arguments(self, plan):
        return {}

    def cells(self, plan):
        return [f"echo/{size}" for size in range(plan.sizes)]

    def run(self, session, cell, names):
        block = session.next_block()
        do = "crash" if session.plan.model_args.get("dtype") == "half" and "b" in names else "echo"
        for name in names:
            found = session.turns.each([name], lambda w: w.ask(do if w.name != "triton" else "echo", cell=cell))
            yield from (Measured(arm=name, cell=cell, block=block, answer=answer) for answer in found.values())

    def view(self, record):
        return View(self.title, [])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(arms, **plan)`: the record, as it is in its file."""

    def measured(arms: str, **values: Any):
        plan = Plan(shape="llama-3.1-8b", arms=arms, output=tmp_path / "run", **{"resident": 2, **values})
        record, folder = Tiny().measure(plan, command=f"sage-eval {arms}")
        assert records.read(Measured, folder / "tiny.json", "tiny") == record
        measured.plan = plan
        return record

    return measured


def cells(record):
    return [(row.arm, row.cell, row.block) for row in record.rows]


def test_arms_of_a_group_share_a_block_and_their_coverage_is_noted(run):
    record = run("triton,fa3")
    assert cells(record) == [
        ("triton", "echo/0", 0), ("fa3", "echo/0", 0), ("triton", "echo/1", 1), ("fa3", "echo/1", 1),
    ]  # fmt: skip
    assert record.arms["fa3"].coverage == {"prefill/sage": 10}
    assert record.arms["triton"].role == "baseline"
    assert record.arms["fa3"].start_seconds is not None


def test_same_command_again_starts_no_engine(run, monkeypatch):
    first = run("triton,fa3")
    monkeypatch.setattr(Worker, "__init__", lambda *_, **__: pytest.fail("an engine was started"))
    assert run("triton,fa3").rows == first.rows


def test_new_arm_is_measured_beside_the_baseline_once_more(run):
    run("triton,fa3", sizes=1)
    record = run("triton,flashinfer", sizes=1)
    assert cells(record)[2:] == [("triton", "echo/0", 1), ("flashinfer", "echo/0", 1)]
    assert record.arms["triton"].coverage == {"prefill/sage": 20}
    assert record.provenance.commands == ["sage-eval triton,fa3", "sage-eval triton,flashinfer"]


def test_record_of_other_settings_or_code_is_refused_and_the_difference_named(run, tmp_path):
    run("triton,fa3", sizes=1)
    with pytest.raises(UsageError, match=r"another settings \(seed: 0, now 1\): choose --output"):
        run("triton,fa3", sizes=2, seed=1)
    path = tmp_path / "run" / "tiny.json"
    value = json.loads(path.read_text())
    value["provenance"]["code"] = "f00"
    path.write_text(json.dumps(value))
    with pytest.raises(UsageError, match="another code"):
        run("triton,fa3", sizes=2)


def test_arm_that_fails_is_noted_and_the_others_go_on(run, monkeypatch):
    monkeypatch.setattr(Tiny, "order", lambda self, session, arm: {"refuse": "no GPU"} if arm.name == "fa3" else {})
    record = run("triton,fa3", sizes=1)
    assert cells(record) == [("triton", "echo/0", 0)]
    assert "no GPU" in record.arms["fa3"].error
    assert Tiny().failed(record, run.plan)


def test_baseline_that_does_not_start_ends_the_command(run, monkeypatch):
    monkeypatch.setattr(Tiny, "order", lambda self, session, arm: {"refuse": "no GPU"})
    with pytest.raises(SageEvalError, match=r"the baseline did not start: .*no GPU"):
        run("triton,fa3")


def test_baseline_runs_again_for_arms_that_need_its_temporary_files(run, monkeypatch):
    monkeypatch.setattr(Tiny, "needs_baseline", True)
    alone = {"resident": 1, "sizes": 1}
    run("triton,fa3", **alone)
    assert cells(run("triton,fa3", **alone)) == [("triton", "echo/0", 0), ("fa3", "echo/0", 1)]
    assert cells(run("triton,fa3,flashinfer", **alone))[2:] == [("triton", "echo/0", 2), ("flashinfer", "echo/0", 3)]


def test_baseline_that_fails_ends_the_command_where_the_others_need_it(run, monkeypatch):
    monkeypatch.setattr(Tiny, "needs_baseline", True)
    monkeypatch.setattr(Tiny, "cells", lambda self, plan: ["crash"])

    def crash(self, session, cell, names):
        session.turns.each(names, lambda worker: worker.ask("crash"))
        return []

    monkeypatch.setattr(Tiny, "run", crash)
    with pytest.raises(SageEvalError, match="the baseline failed: "):
        run("triton,fa3", resident=1)


def test_arm_that_computes_the_same_as_the_baseline_is_a_floor(run):
    assert (
        run("sage_attn,sage_attn+sage_attn,sage_attn:smooth_k=off", sizes=1, resident=3)
        .arms["sage_attn+sage_attn"]
        .role
        == "floor"
    )


def test_time_that_is_over_leaves_the_rest_for_the_next_command(run, monkeypatch):
    monkeypatch.setattr(Tiny, "expected", lambda self, session, cell, names: 1e9 * (cell == "echo/1"))
    assert [row.cell for row in run("triton", total=100.0).rows] == ["echo/0"]
    monkeypatch.undo()
    assert [row.cell for row in run("triton", total=100.0).rows] == ["echo/0", "echo/1"]
