import logging
import os
import random
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

from sage_eval.engine import host


def test_environment_logging_and_generators_come_back():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.getstate()[1][:3], np.random.get_state()[1][:3].tolist(), torch.get_rng_state()[:3].tolist()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    with host.undisturbed({"SAGE_EVAL_TEST": "1"}):
        assert os.environ["SAGE_EVAL_TEST"] == "1"
        random.random(), np.random.rand(), torch.rand(1)
        logging.basicConfig(level=logging.CRITICAL, force=True)

    assert "SAGE_EVAL_TEST" not in os.environ
    assert (root.handlers, root.level) == (handlers, level)
    now = random.getstate()[1][:3], np.random.get_state()[1][:3].tolist(), torch.get_rng_state()[:3].tolist()
    assert now == expected


def test_a_previous_value_comes_back_even_after_an_error(monkeypatch):
    monkeypatch.setenv("SAGE_EVAL_TEST", "before")
    with pytest.raises(RuntimeError), host.undisturbed({"SAGE_EVAL_TEST": "inside"}):
        raise RuntimeError
    assert os.environ["SAGE_EVAL_TEST"] == "before"


def test_kill_reaches_grandchildren():
    script = """if True:
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("ready", flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child.stdout.readline()
    process = psutil.Process(child.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) == 2
    assert process in host.children()

    host.kill({process})

    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
