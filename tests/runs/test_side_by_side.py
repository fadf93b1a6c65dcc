"""Several arms at a time, with real child processes."""

import re
import signal
import threading

import pytest

from sage_eval.errors import EngineError
from sage_eval.runs import side_by_side
from sage_eval.runs.compare import Quiet, compare
from sage_eval.runs.spec import ArmSpec
from tests.runs.test_compare import gone, start


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


@pytest.mark.parametrize(
    ("visible", "arguments", "expected"),
    [("0,3", {}, {"0", "3"}), ("2", {}, {None}), ("0,1", {"tp_size": 2}, {None}), ("", {}, {None})],
)
def test_gpus_are_shared_out_unless_an_engine_wants_several(visible, arguments, expected, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(side_by_side, "run_arm", lambda spec, folder, progress, device: seen.append(device))
    specs = [spec(f"arm{index}", arguments) for index in range(8)]
    side_by_side.run_arms(specs, tmp_path, Quiet(), 4)
    assert len(seen) == 8
    assert set(seen) == expected


def spec(name, arguments):
    fields = {"name": name, "lm": "l", "model_args": arguments, "task_args": {}, "model_hash": "h", "tasks": ("t",)}
    return ArmSpec(**fields, limit=None, seed=0, data_dir=None, stack={})


def test_where_one_fails_the_others_are_finished_first(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_FAULT", "sage_attn:kill")
    with pytest.raises(EngineError, match="arm candidate was ended by SIGKILL"):
        compare(tiny(output=tmp_path / "run", parallel=2))
    assert (tmp_path / "run/arms/baseline/arm.json").exists()


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
