"""A measurement with stand-ins for engines."""

import pytest

from sage_eval.probes.arms import parse_arms
from sage_eval.probes.serving import measure
from sage_eval.probes.serving.measure import Measurement
from sage_eval.probes.serving.plan import make_plan
from sage_eval.probes.serving.record import Record, read
from sage_eval.probes.shape import describe, write_shape
from tests.probes.serving.standins import LENGTHS


@pytest.fixture
def work(tmp_path, monkeypatch):
    """`work(bench, **options)`: the record after measuring arms a, b and c (baseline a), with 4 rounds a cell."""
    monkeypatch.setattr(measure, "MAX_ROUNDS", 4)
    model = write_shape("llama-3.1-8b", tmp_path / "model")
    path = tmp_path / "serving.json"

    def run(bench, arms="a,b,c", **options):
        chosen = {
            "lengths": LENGTHS, "batches": (), "packed_tokens": 0, "mixed": 0,
            "profile": 0, "seconds": 1e6, "resident": 3,
        } | options  # fmt: skip
        plan = make_plan(model, parse_arms(arms), None, **chosen)
        empty = Record(
            kind="serving", created="", command="", baseline="a", model=describe(model), settings=plan.settings(),
            versions={}, host={}, devices=[],
        )  # fmt: skip
        into = read(path) if path.exists() else empty
        try:
            Measurement(plan, into, path, lambda _: None, bench.start, bench.clock).run()
        finally:
            assert bench.alive == []
        return read(path)

    return run
