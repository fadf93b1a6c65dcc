"""`sage-eval watch` on the folders of real runs: at work, killed, gone on with, finished; and on damaged ones."""

import os
import signal
import subprocess
import sys

import pytest

from sage_eval.errors import UsageError
from sage_eval.report.watch import look
from sage_eval.store.lock import lock

TASKS = "tests/compare/tasks/tiny_choice.yaml,tests/compare/tasks/tiny_perplexity.yaml"
engine = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


def states(watched):
    return [arm.state for arm in watched.arms]


def stamps(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def watch(folder, *more):
    """The command as a script sees it: exit code and stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "sage_eval.cli", "watch", str(folder), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="holds no run"):
            look(folder)


def test_a_command_that_has_just_taken_the_folder_is_starting(tmp_path):
    with lock(tmp_path / "run"):
        [found] = look(tmp_path / "run")
        assert (found.state, found.by.split()[1]) == ("starting", str(os.getpid()))
    with pytest.raises(UsageError):
        look(tmp_path / "run")


def test_watching_takes_no_lock(tmp_path):
    """While somebody looks all the time, a command can begin."""
    code = "import sys; from pathlib import Path; from sage_eval.report.watch import look\n"
    code += "while True: look(Path(sys.argv[1]))"
    with lock(tmp_path):
        watcher = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    (tmp_path / "arms").mkdir()
    try:
        for _ in range(200):
            with lock(tmp_path):
                pass
        assert watcher.poll() is None
    finally:
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
