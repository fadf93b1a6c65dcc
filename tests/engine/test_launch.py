"""A server's port and what its end is called; `tests/compare/test_engine_servers.py` has real servers."""

import signal
import socket

import pytest

from sage_eval.engine.checks import HOST, reserve
from sage_eval.engine.launch import ServedEngine, _ending
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import PrerequisiteError


def test_kept_port_is_free_for_a_server_and_taken_for_others():
    """SGLang's server sets SO_REUSEADDR, as servers do; whoever asks for any port does not get one by it."""
    with reserve() as kept, socket.socket() as other, socket.socket() as server:
        address = kept.getsockname()
        assert address[0] == HOST
        with pytest.raises(OSError, match="in use"):
            other.bind(address)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen()
        with socket.create_connection(address, timeout=5):
            pass


def test_a_given_port_that_is_taken_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PrerequisiteError, match=f"port={port}: Address already in use; choose another port"):
            ServedEngine(ArmOptions.from_arguments("model", port=port), tmp_path / "log.txt")
    assert not (tmp_path / "log.txt").exists()


def test_how_a_server_without_a_last_word_ended_is_said():
    assert _ending(3) == "exit code 3"
    assert "SIGKILL" in _ending(-signal.SIGKILL)
