import threading

import pytest

from sage_eval.arms.side_by_side import run_jobs, visible_devices


def test_jobs_share_the_devices():
    used, together = [], threading.Barrier(2)

    def job(device, _check):
        together.wait(10)
        used.append(device)

    run_jobs([job] * 6, 2, ["0", "3"])
    assert sorted(used) == ["0", "0", "0", "3", "3", "3"]


def test_one_job_at_a_time_may_have_all_devices():
    used = []
    run_jobs([lambda device, _check: used.append(device)] * 2, 1, ["0", "3"])
    assert used == [None, None]


def test_first_failure_ends_the_others_and_none_is_begun_after_it():
    begun, running = [], threading.Event()

    def patient(_device, check):
        begun.append("patient")
        running.set()
        while True:
            check()

    def failing(_device, _check):
        running.wait(10)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run_jobs([patient, failing, lambda *_: begun.append("late")], 2)
    assert begun == ["patient"]


def test_later_jobs_are_not_begun_after_a_failure_of_the_only_one_running():
    begun = []

    def failing(_device, _check):
        raise ValueError("baseline")

    with pytest.raises(ValueError, match="baseline"):
        run_jobs([failing, lambda *_: begun.append("candidate")], 1)
    assert begun == []


@pytest.mark.parametrize(
    ("visible", "expected"), [("0,3", ["0", "3"]), ("2", [None]), ("", [None]), (None, ["0", "1"])]
)
def test_devices_are_those_that_cuda_may_see(visible, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(visible_devices(2)) == expected
