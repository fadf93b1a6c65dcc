import pytest

from sage_eval.engine.local import last_error

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
