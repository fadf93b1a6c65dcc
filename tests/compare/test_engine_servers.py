"""`compare --servers` with real servers: the scores of the engine in process, and nothing left however it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from sage_eval.compare.reproduce import configuration
from sage_eval.engine import host
from sage_eval.measure.quick.record import QuickRecord
from sage_eval.report.validate import misses
from sage_eval.store import load

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3000)]
TASKS = "tests/compare/tasks/tiny_choice.yaml,tests/compare/tasks/tiny_perplexity.yaml"


def start(model, output, *more, limit=3, **arguments):
    """One prompt a batch: what stands beside it in a batch may change its last bit."""
    told = {"max_length": 400, "dtype": "float32", "max_running_requests": 1, **arguments}
    return subprocess.Popen(
        [sys.executable, "-m", "sage_eval.cli", "compare", str(model), "--tasks", TASKS, "--output", str(output),
         "--model-args", ",".join(f"{name}={value}" for name, value in told.items()), "--no-calibrate",
         "--limit", str(limit), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def finished(process):
    out, errors = process.communicate(timeout=2400)
    assert process.returncode == 0, errors
    return out


def family(process):
    """The command's worker, its server, the server's scheduler, and all the processes that there are."""
    found = {}
    with contextlib.suppress(psutil.Error):
        everyone = psutil.Process(process.pid).children(recursive=True)
        for child in everyone:
            if "scheduler" in child.name():
                found = {
                    "scheduler": child,
                    "server": child.parent(),
                    "worker": child.parent().parent(),
                    "all": everyone,
                }
    return found


def until(condition, process=None, seconds=900):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def listening(process):
    """Ports that a server listens on."""
    with contextlib.suppress(psutil.Error):
        return [each.laddr.port for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
    return []


@pytest.fixture(scope="module")
def runs(reference_model, tmp_path_factory):
    """The same comparison in process and by servers, and what the latter printed."""
    folder = tmp_path_factory.mktemp("runs")
    finished(start(reference_model, folder / "local"))
    printed = finished(start(reference_model, folder / "served", "--servers"))
    return load(folder / "local"), load(folder / "served"), printed


@pytest.mark.parametrize("arm", ["baseline", "candidate"])
def test_scores_and_distributions_are_those_of_the_engine_in_process(runs, arm):
    local, served, _ = (run.arms[arm] if hasattr(run, "arms") else run for run in runs)
    assert served.samples == local.samples
    assert served.record.fingerprint != local.record.fingerprint
    assert served.record.engine["coverage"] == local.record.engine["coverage"]
    ours, theirs = (dict(np.load(each.folder / "topk.npz")) for each in (served, local))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_each_server_was_asked_what_quick_asks(runs):
    _, served, printed = runs
    for name, arm in served.arms.items():
        record = QuickRecord.model_validate_json((arm.folder / "quick.json").read_text())
        assert [row.size for row in record.speed] == ["small"]
        assert {check.name: check.state for check in record.checks}["determinism"] == "fine", name
        assert arm.record.engine["command"].startswith(("python -m sglang.launch_server", "SAGE_", "SGLANG_"))
    assert "Speed of the servers" in printed
    assert "Memory of the servers" in printed


def test_the_run_is_valid_and_is_made_again_with_servers(runs):
    local, served, _ = runs
    assert misses(served.folder) == []
    assert (configuration(served).servers, configuration(local).servers) == (True, False)


def test_a_finished_run_starts_nothing_again(runs, reference_model):
    process = start(reference_model, runs[1].folder, "--servers")
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors.count("finished earlier, kept")) == (0, 2), errors


def test_a_port_that_is_taken_is_one_line(reference_model, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(reference_model, tmp_path / "run", "--servers", port=port)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    [line] = [line for line in errors.splitlines() if "error:" in line]
    assert "arm baseline: " in line
    assert f"port={port}: Address already in use; choose another port" in line


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run folder that is broken off again and again, and gone on with."""
    return tmp_path_factory.mktemp("broken") / "run"


@pytest.mark.parametrize("who", ["scheduler", "server"])
def test_a_server_that_dies_in_the_middle_is_named_and_its_answers_are_kept(reference_model, broken, who):
    journal = broken / "arms/baseline/answers.journal"
    before = journal.stat().st_size if journal.exists() else 500
    process = start(reference_model, broken, "--servers", limit=40)
    until(lambda: journal.exists() and journal.stat().st_size > before, process)
    found = family(process)
    [port] = listening(found["server"])
    found[who].kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    [line] = [line for line in errors.splitlines() if "error:" in line]
    assert "arm baseline: its server ended: " in line
    gone(found, port)
    assert journal.stat().st_size > 500


@pytest.mark.parametrize(
    ("who", "number", "code"),
    [
        ("command", signal.SIGINT, 130), ("command", signal.SIGTERM, -signal.SIGTERM),
        ("command", signal.SIGKILL, -signal.SIGKILL), ("worker", signal.SIGKILL, 1),
    ],
)  # fmt: skip
def test_however_a_side_ends_no_process_and_no_port_is_left(reference_model, tmp_path, who, number, code):
    process = start(reference_model, tmp_path / "run", "--servers", limit=40)
    found = until(lambda: family(process), process)
    [port] = until(lambda: listening(found["server"]), process)
    (process if who == "command" else found[who]).send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == code
    gone(found, port)


def gone(found, port):
    """A killed process is a zombie for its parent before its last thread has ended and closed what it listened on."""
    until(lambda: not any(map(host.alive, found["all"])), seconds=60)
    until(lambda: free(port), seconds=60)


def free(port):
    with socket.socket() as one, contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        return True


def test_the_run_that_was_broken_off_goes_on_from_what_it_has(reference_model, broken):
    finished(start(reference_model, broken, "--servers", limit=40))
    record = json.loads((broken / "arms/baseline/arm.json").read_text())
    assert record["engine"]["kept"]["requests"] > 0
    assert not any(broken.rglob("*.journal"))
