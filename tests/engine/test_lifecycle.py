"""How engines start, fail and end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sage_eval.engine import host
from sage_eval.engine.arm import open_arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import ScoreRequest
from sage_eval.errors import EngineError

pytestmark = pytest.mark.engine


@pytest.mark.slow
def test_a_failed_start_is_one_line_with_the_schedulers_reason(reference_model, tmp_path):
    shutil.copytree(reference_model, tmp_path / "model")
    config = json.loads((reference_model / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 64}))
    children = host.children()
    with pytest.raises(EngineError, match=r"did not start|scheduler died") as caught:
        open_arm(ArmOptions.from_arguments(str(tmp_path / "model")))
    assert "memory" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert host.children() == children
    assert signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(reference_model, tmp_path):
    """SGLang's processes import the script again, which would open an engine in each of them."""
    unguarded = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "script.py").write_text(unguarded)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", reference_model],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert re.search(r"EngineError: .*needs a main guard", done.stderr), done.stderr[-2000:]
    assert "ready" not in done.stdout


SCRIPT = """
import sys
from sage_eval.engine.arm import open_arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import ScoreRequest

if __name__ == "__main__":
    arm = open_arm(ArmOptions.from_arguments(sys.argv[1], max_length=4608))  # nobody closes it
    print("ready", flush=True)
    while True:
        arm.score([ScoreRequest(tuple(range(10, 2000)), (5,))])
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_engine_with_the_process(reference_model, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", reference_model],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == b"ready\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
    assert process.wait(timeout=60) not in (0, None)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive


@pytest.mark.slow
def test_closing_one_engine_leaves_the_other_alone(reference_model):
    options = ArmOptions.from_arguments(str(reference_model), max_length=512)
    request = ScoreRequest((1, 2, 3), (4,))
    with open_arm(options) as first:
        second = open_arm(options)
        expected = first.score([request])
        second.close()
        assert first.score([request]) == expected
