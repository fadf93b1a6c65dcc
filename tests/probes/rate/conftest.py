"""A record of request rates for tests of what is made of it."""

import pytest

from sage_eval.probes.rate.record import ArmRecord, Record
from sage_eval.probes.rate.summary import summarise
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
