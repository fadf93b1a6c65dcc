"""The load generator's own death, with a process that dies as it is told to; a port that is kept for a server."""

import socket

import pytest

from sage_eval.probes.client import Worker
from sage_eval.probes.rate.client import Generator, GeneratorError
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.server import HOST, reserve

LOAD = Load(rate=None, requests=2, input_tokens=4, output_tokens=2, seed=0, vocabulary=10)


@pytest.fixture
def generator(tmp_path, monkeypatch):
    """A generator whose process is `obeying`, told to die by every run."""
    start = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda self, *given: start(self, *given[:-1], "tests.probes.obeying"))
    made = Generator(tmp_path / "logs", tmp_path / "words", tmp_path)
    monkeypatch.setattr(made, "ask", lambda do, **_: Worker.ask(made, "die"))
    yield made
    made.close()


def test_a_generator_that_dies_says_so_and_blames_no_arm(generator):
    generator.ready()
    with pytest.raises(GeneratorError) as caught:
        generator.run(LOAD, "http://x")
    text = str(caught.value)
    assert text.startswith("SGLang's load generator ended: out of memory (its log: ")
    assert "repeat the command" in text


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
