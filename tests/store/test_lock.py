import os
import socket
import subprocess
import sys

import pytest

from sage_eval.errors import UsageError
from sage_eval.store.lock import FILE, lock


def test_second_command_is_refused_and_told_who_is_there(tmp_path):
    with lock(tmp_path), pytest.raises(UsageError) as error, lock(tmp_path):
        pass
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in str(error.value)


def test_lock_leaves_no_file_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with lock(tmp_path / "run"):
            assert (tmp_path / "run" / FILE).exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from sage_eval.store.lock import lock\n"
    code += "with lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert (tmp_path / FILE).exists()
    with lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / FILE).read_text()
