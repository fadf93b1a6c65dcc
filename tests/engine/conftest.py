"""Small servers that misbehave, and a client that does not wait long for them."""

import pytest

from sage_eval.engine import client
from tests.servers import Small


@pytest.fixture
def small():
    servers = []

    def made():
        servers.append(Small())
        return servers[-1]

    yield made
    for server in servers:
        server.close()


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    for name in client.KEYS:
        monkeypatch.delenv(name, raising=False)
