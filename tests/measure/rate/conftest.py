"""A record of request rates that is made up."""

import pytest

from sage_eval.measure.rate.summary import Run
from sage_eval.store.provenance import Provenance
from sage_eval.store.record import ArmEntry, Record
from tests.measure.rate.made_up import BASE, FAST, run


@pytest.fixture
def measured():
    """Two repeats of one request per second, three requests each; then three at once."""
    made = Provenance(
        created="2026-01-01T00:00:00+00:00", commands=["sage-eval bench rate"], model={"name": "m"},
        versions={"sglang": "0.5.17"}, host={"cpu": "some CPU"}, devices=[],
    )  # fmt: skip
    rows = [
        *(run(BASE, 1.0, 0, [0.2] * 3), run(FAST, 1.0, 0, [0.1] * 3)),
        *(run(BASE, 1.0, 1, [0.3] * 3), run(FAST, 1.0, 1, [0.2] * 3)),
        *(run(BASE, None, 0, [0.4, 0.8, 1.2]), run(FAST, None, 0, [0.3, 0.6, 0.9])),
    ]
    settings = {
        "engine": {"load_format": "dummy"}, "input_tokens": 100, "output_tokens": 10, "requests": 3, "seconds": 30.0,
        "seed": 0,
    }  # fmt: skip
    arms = {BASE: ArmEntry(arguments={}, role="baseline"), FAST: ArmEntry(arguments={}, role="candidate")}
    return Record[Run](kind="rate", provenance=made, settings=settings, baseline=BASE, arms=arms, rows=rows)
