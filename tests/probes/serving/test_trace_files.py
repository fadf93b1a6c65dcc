"""Traces as files: which one is read, and what becomes of one that is damaged."""

import contextlib
import gzip
import json
from types import SimpleNamespace

import pytest

from sage_eval.engine.local import LocalEngine
from sage_eval.errors import DataError, EngineError
from sage_eval.probes.serving import worker
from sage_eval.probes.serving.profile import profile
from sage_eval.probes.serving.trace import read
from tests.probes.serving.traces import event, prefill


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


def test_the_first_ranks_file_with_the_label_is_read(tmp_path):
    for name, events in (("a-1-TP-0", prefill()), ("a-1-TP-1", []), ("b-1-TP-0", [])):
        events += [{"ph": "M", "name": "process_name"}, event("Trace", "x", 0, 1)]
        (tmp_path / f"{name}.trace.json.gz").write_bytes(packed(events))
    assert len(read(tmp_path, "a", gpu=True).works) == 6
    with pytest.raises(DataError, match="no trace"):
        read(tmp_path, "c", gpu=True)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_trace_is_a_profile_that_tells_nothing(name):
    assert profile(Engine(WHOLE), "prefill", lambda: None).keys() == {"times"}
    found = profile(Engine(DAMAGED[name]), "prefill", lambda: None)
    assert found.keys() == {"error"}
    assert found["error"].startswith("the profiler's trace is damaged (")


def test_an_engine_that_fails_meanwhile_is_no_matter_of_the_trace():
    with pytest.raises(EngineError, match="scheduler died"):
        profile(Engine(WHOLE, dead=True), "prefill", lambda: None)


def test_a_profile_that_tells_nothing_is_an_answer_and_not_the_workers_error(monkeypatch):
    monkeypatch.setattr(worker, "profile", lambda *_: {"error": "no kernel"})
    arm = SimpleNamespace(transport=LocalEngine.__new__(LocalEngine))
    assert worker._obey(arm, {"do": "profile", "kind": "prefill"}) == {"profile": {"error": "no kernel"}}
