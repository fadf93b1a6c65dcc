"""How the death of a scheduler is noticed and told, with processes that are none."""

import os
import signal
import subprocess
import sys
from concurrent.futures import Future

import psutil
import pytest

from sage_eval.engine.post_mortem import Watch, last_error
from sage_eval.errors import EngineError

TRACEBACK = """[2026-01-01] Scheduler hit an exception: Traceback (most recent call last):
  File "scheduler.py", line 1, in run_scheduler_process
    raise RuntimeError(
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", None),
        ("model loaded\n", None),
        (TRACEBACK + "RuntimeError: no weights\n\n", "RuntimeError: no weights"),
        (TRACEBACK + "sage_eval.errors.UsageError: head_dim=80: use triton\n", "head_dim=80: use triton"),
        ("ValueError: first\nOSError: second\nbye\n", "OSError: second"),
        (TRACEBACK + "torch.OutOfMemoryError: CUDA out of memory\n", "torch.OutOfMemoryError: CUDA out of memory"),
        ("AssertionError\n", "AssertionError"),
    ],
)
def test_the_reason_is_the_last_exception_as_one_line(log, reason):
    assert last_error(log) == reason


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").touch()
    return tmp_path / "log"


@pytest.fixture
def watch(log):
    found = Watch(log)
    yield found
    found.end()


def failed(error=None):
    future = Future()
    future.set_exception(error or RuntimeError("no reply"))
    return future


def test_what_failed_is_said_with_the_schedulers_reason_if_it_gave_one(watch, log):
    with pytest.raises(EngineError, match=r"^it did not: no reply$"):
        watch.wait(failed(), "it did not")
    log.write_text(TRACEBACK + "RuntimeError: no weights\n")
    with pytest.raises(EngineError, match=r"^it did not: RuntimeError: no weights$"):
        watch.wait(failed(), "it did not")


def test_an_answer_that_is_a_timeout_is_no_other_error_than_any(watch):
    with pytest.raises(EngineError, match=r"^it did not: 30 s$"):
        watch.wait(failed(TimeoutError("30 s")), "it did not")


def test_a_child_that_ends_while_an_answer_is_waited_for_is_an_error(watch, log):
    log.write_text("ValueError: bad\n")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch.children = {psutil.Process(process.pid)}
        watch.raise_if_dead()
        process.stdin.close()
        with pytest.raises(EngineError, match=r"scheduler died: ValueError: bad"):
            watch.wait(Future(), "it did not")


def test_sigquit_is_harmless_as_long_as_one_engine_is_watched(log):
    before = signal.getsignal(signal.SIGQUIT)
    first, second = Watch(log), Watch(log)
    first.end()
    os.kill(os.getpid(), signal.SIGQUIT)
    second.end()
    second.end()
    assert signal.getsignal(signal.SIGQUIT) == before
