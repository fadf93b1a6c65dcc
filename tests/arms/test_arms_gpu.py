"""Who else is on the GPU, and which it is."""

import sys
from types import SimpleNamespace

import pytest

from sage_eval.arms import gpu
from sage_eval.errors import PrerequisiteError


@pytest.fixture
def card(monkeypatch):
    """A driver with one GPU, on which `processes` compute."""
    found = SimpleNamespace(processes=[])
    driver = SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda _: found.processes,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_company_is_refused_by_its_process(card):
    card.processes = [SimpleNamespace(pid=4711)]
    with pytest.raises(PrerequisiteError, match=r"4711.*--shared-gpu"):
        gpu.require_idle()


def test_a_gpu_for_oneself_is_not(card):
    gpu.require_idle()


def test_where_cuda_is_shown_no_gpu_nobody_is_company(card, monkeypatch):
    card.processes = [SimpleNamespace(pid=4711)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu.require_idle()
