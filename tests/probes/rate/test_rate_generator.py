"""Failures of the load generator and of servers, with processes that do as they are told; a port kept for a server."""

import errno
import socket

import pytest
import requests

from sage_eval.errors import EngineError
from sage_eval.probes.client import Worker
from sage_eval.probes.rate import generator as process
from sage_eval.probes.rate.client import Generator, GeneratorError, Server, UnansweredError
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.server import HOST, reserve

LOAD = Load(rate=None, requests=2, input_tokens=4, output_tokens=2, seed=0, vocabulary=10)


@pytest.fixture
def obeying(monkeypatch):
    """Every process is `obeying`."""
    start = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda self, *given: start(self, *given[:-1], "tests.probes.obeying"))


@pytest.fixture
def told(obeying, tmp_path, monkeypatch):
    """`told(command, **more)`: a generator whose process is told that, whenever it is to run."""
    made = Generator(tmp_path / "logs", tmp_path / "words", tmp_path)

    def tell(command, **more):
        monkeypatch.setattr(made, "ask", lambda do, within, **_: Worker.ask(made, command, within=within, **more))
        made.ready()
        return made

    yield tell
    made.close()


def test_a_generator_that_dies_says_so_and_blames_no_arm(told):
    with pytest.raises(GeneratorError) as caught:
        told("die").run(LOAD, "http://x")
    text = str(caught.value)
    assert text.startswith("SGLang's load generator ended: out of memory (its log: ")
    assert "repeat the command" in text


def test_a_server_that_does_not_answer_is_not_waited_for_longer_than_asked(told):
    with pytest.raises(UnansweredError, match="2 requests, all at once, were not answered within 1 s"):
        told("hang").run(LOAD, "http://x", within=0.6)


@pytest.mark.parametrize(("own", "kind"), [(True, GeneratorError), (False, EngineError)])
def test_who_is_to_blame_where_the_generator_gives_up_is_what_it_says(told, own, kind):
    with pytest.raises(kind, match=r"SGLang's load generator gave up: why \(its log: .*bench_serving\.log\)"):
        told("run", gave_up="why", own=own).run(LOAD, "http://x")


@pytest.mark.parametrize(
    ("error", "said", "own"),
    [
        (OSError(errno.ENOSPC, "No space left"), "OSError: [Errno 28] No space left", True),
        (requests.ConnectionError("refused"), "ConnectionError: refused", False),
        (ValueError("Initial test\nrun failed"), "ValueError: Initial test run failed", False),
        (SystemExit(1), "SystemExit: 1", False),
    ],
)
def test_a_full_disk_is_the_generators_own_and_a_server_that_does_not_answer_is_not(monkeypatch, error, said, own):
    def run():
        raise error

    monkeypatch.setattr("sys.argv", [])
    assert process._run(run, []) == {"gave_up": said, "own": own}


@pytest.mark.parametrize("request_", [Server.coverage, Server.freeze_gc])
def test_a_server_that_has_ended_is_named_with_what_it_said_last(obeying, tmp_path, request_):
    server = Server("fa3", {}, tmp_path)
    try:
        with reserve() as nobody:
            server.url = f"http://{HOST}:{nobody.getsockname()[1]}"
            server._send({"do": "die"})
            with pytest.raises(EngineError, match=r"arm fa3 ended: out of memory \(its log: .*fa3\.log\)"):
                request_(server)
    finally:
        server.close()


def test_a_kept_port_is_free_for_a_server_and_taken_for_others():
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
