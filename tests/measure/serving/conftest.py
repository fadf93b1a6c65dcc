"""A measurement with stand-ins for engines."""

import pytest

from sage_eval.arms.shape import describe, write_shape
from sage_eval.arms.turns import Turns
from sage_eval.measure.base import Session
from sage_eval.measure.serving import work as order
from sage_eval.measure.serving.instrument import Serving
from sage_eval.measure.serving.plan import ServingPlan
from sage_eval.store.provenance import Provenance
from sage_eval.store.record import ArmEntry, Record
from tests.measure.serving.standins import LENGTHS


def empty(model, baseline, **values):
    """A record of schema 2 without rows."""
    provenance = Provenance(
        created="", commands=[""], model=model, versions={}, host={"cpu": "some CPU"}, devices=[], code=None
    )
    settings = {"engine": {"load_format": "dummy"}}
    chosen = {"kind": "serving", "provenance": provenance, "settings": settings, "baseline": baseline} | values
    return Record[Serving.row](**chosen)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """`work(bench, **options)`: the record after measuring arms a, b and c (baseline a), with 4 rounds per cell.

    A second call goes on with the record of the first.
    """
    monkeypatch.setattr(order, "MAX_ROUNDS", 4)
    model = write_shape("llama-3.1-8b", tmp_path / "model")
    record = empty(describe(model), "a")

    def run(bench, arms="a,b,c", resident=3, **options):
        chosen = {"lengths": LENGTHS, "batches": (), "packed_tokens": 0, "mixed": 0, "profile": 0, "seconds": 1e6}
        plan = Serving().resolve(ServingPlan(arms=arms, **chosen | options), model)
        for arm in plan.arms:
            record.arms.setdefault(arm.name, ArmEntry(role="floor", arguments={}))
        turns = Turns(
            [arm.name for arm in plan.arms], "a", record.arms, bench.start, lambda _: None,
            resident=resident, total=plan.total, clock=bench.clock,
        )  # fmt: skip
        try:
            with turns:
                Serving().work(Session(plan, model, record, turns, tmp_path, tmp_path, lambda _: None), lambda: None)
        finally:
            assert bench.alive == []
        return record.model_copy(deep=True)

    return run


def blocks(record):
    """(cell, arms) of each block; without what was skipped."""
    found = {}
    for row in record.rows:
        if not row.skipped:
            found.setdefault((row.block, row.cell), []).append(row.arm)
    return [(cell, sorted(arms)) for (_, cell), arms in found.items()]
