"""Traces as files: which one is read, and what becomes of one that is damaged."""

import contextlib
import gzip
import json

import pytest

from sage_eval.errors import DataError, EngineError
from sage_eval.measure.serving.profile import read
from sage_eval.measure.serving.worker import profile
from tests.measure.serving.traces import event, prefill


def packed(events):
    return gzip.compress(json.dumps({"traceEvents": events}).encode())


def without(field):
    return [{name: value for name, value in event.items() if name != field} for event in prefill()]


WHOLE = packed(prefill())
DAMAGED = {
    "cut": WHOLE[:-20],
    "altered": WHOLE[:100] + bytes(50) + WHOLE[150:],
    "not packed": b"{}",
    "not JSON": gzip.compress(b'{"traceEvents": ['),
    "no events": gzip.compress(b"{}"),
    "a list": gzip.compress(b"[]"),
    "events that are none": packed([1, 2]),
    **{f"events without {field}": packed(without(field)) for field in ("ts", "dur", "name")},
}


class Engine:
    """Leaves `data` as the trace of whatever is profiled, or is dead."""

    def __init__(self, data, *, dead=False):
        self.data, self.dead = data, dead

    @contextlib.contextmanager
    def profiled(self, folder, label):
        if self.dead:
            raise EngineError("SGLang's scheduler died")
        yield
        (folder / f"{label}-1-TP-0.trace.json.gz").write_bytes(self.data)

    def info(self):
        return {"device": "cuda"}


def test_first_ranks_file_with_the_label_is_read(tmp_path):
    for name, events in (("a-1-TP-0", prefill()), ("a-1-TP-1", []), ("b-1-TP-0", [])):
        events += [{"ph": "M", "name": "process_name"}, event("Trace", "x", 0, 1)]
        (tmp_path / f"{name}.trace.json.gz").write_bytes(packed(events))
    assert len(read(tmp_path, "a", gpu=True).works) == 6
    with pytest.raises(DataError, match="no trace"):
        read(tmp_path, "c", gpu=True)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_trace_is_a_profile_with_an_error(name):
    assert profile(Engine(WHOLE), "prefill", lambda: None).error is None
    found = profile(Engine(DAMAGED[name]), "prefill", lambda: None)
    assert found.error.startswith("the profiler's trace is damaged (")


def test_engine_that_fails_meanwhile_raises_its_error():
    with pytest.raises(EngineError, match="scheduler died"):
        profile(Engine(WHOLE, dead=True), "prefill", lambda: None)
