"""Several arms at a time, with real child processes."""

import re
import signal
import threading

import pytest

from sage_eval.compare.run import Quiet, compare
from tests.compare.test_compare import gone, start

pytestmark = pytest.mark.slow


class Watch(Quiet):
    """Counts the arms that run at the same time."""

    def __init__(self):
        self.now, self.most, self.lock = set(), 0, threading.Lock()

    def arm(self, name, backend):
        watch, inner = self, super().arm(name, backend)

        class Around:
            def __enter__(self):
                with watch.lock:
                    watch.now.add(name)
                    watch.most = max(watch.most, len(watch.now))
                return inner.__enter__()

            def __exit__(self, *error):
                with watch.lock:
                    watch.now.discard(name)
                return inner.__exit__(*error)

        return Around()


def test_arms_side_by_side_give_what_they_give_in_turn(tiny, run, tmp_path):
    watch = Watch()
    found = compare(tiny(output=tmp_path / "run", parallel=2), display=watch, argv=["compare", "MODEL"])
    assert watch.most == 2
    assert found.comparison.pairs == run.comparison.pairs
    assert found.prompts == run.prompts


def test_ctrl_c_ends_all_of_them(half, model, tmp_path, monkeypatch):
    (half / "arms/baseline/arm.json").unlink()
    monkeypatch.setenv("SAGE_EVAL_PARALLEL", "2")
    process, pids = start(half, model, tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"^sage-eval: interrupted; finished arms are kept", errors, re.MULTILINE)
    assert "Traceback" not in errors
    assert gone(pids)
