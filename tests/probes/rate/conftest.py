"""A record of request rates that is made up, and one that a measurement of stand-ins makes."""

import time

import pytest

from sage_eval.probes.arms import parse_arms
from sage_eval.probes.rate.measure import Measurement
from sage_eval.probes.rate.plan import make_plan
from sage_eval.probes.rate.record import ArmRecord, Record, read
from sage_eval.probes.rate.summary import summarise
from sage_eval.probes.shape import describe, write_shape
from tests.probes.rate.made_up import BASE, FAST, answers, block


@pytest.fixture
def measured():
    """Two repeats of one request a second, three requests each; then three at once. Nobody is behind."""
    blocks = [
        block(1.0, 0, {BASE: answers([0.2] * 3, seconds=2.5), FAST: answers([0.1] * 3, seconds=2.5)}),
        block(1.0, 1, {BASE: answers([0.3] * 3, seconds=2.5), FAST: answers([0.2] * 3, seconds=2.5)}),
        block(None, 0, {BASE: answers([0.4, 0.8, 1.2]), FAST: answers([0.3, 0.6, 0.9])}, arrivals=[0.0] * 3, sending=0),
    ]
    made = Record(
        created="2026-01-01T00:00:00+00:00", command="sage-eval bench rate", baseline=BASE, model={"name": "m"},
        settings={
            "engine": {"load_format": "dummy"}, "input_tokens": 100, "output_tokens": 10, "requests": 3,
            "seconds": 30.0, "seed": 0,
        },
        versions={"sglang": "0.5.17"}, host={"cpu": "some CPU"}, devices=[], blocks=blocks,
        arms={BASE: ArmRecord(arguments={}, role="baseline"), FAST: ArmRecord(arguments={}, role="candidate")},
    )  # fmt: skip
    made.summary = summarise(made)
    return made


@pytest.fixture
def work(tmp_path):
    """`work(bench, **options)`: the record after measuring arms a, b and c, baseline a, 4 requests at each rate."""
    model = write_shape("llama-3.1-8b", tmp_path / "model")
    path = tmp_path / "rate.json"

    def run(bench, arms="a,b,c", **options):
        chosen = {"requests": 4, "repeats": 2, "resident": 3, "rehearsal": 0.0} | options
        clock = chosen.pop("clock", time.monotonic)
        plan = make_plan(model, parse_arms(arms), None, chosen.pop("rates", (2.0, None)), **chosen)
        empty = Record(
            created="", command="", baseline="a", model=describe(model), settings=plan.settings(), versions={}, host={},
            devices=[],
        )  # fmt: skip
        into = read(path) if path.exists() else empty
        try:
            Measurement(plan, into, path, lambda _: None, bench.start, bench.generator, clock).run()
        finally:
            assert bench.alive == []
        return read(path)

    return run
