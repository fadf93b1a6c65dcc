import socket

import httpx
import pytest

from sage_eval.engine import server
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.server import ServerEngine, open_server
from sage_eval.errors import EngineError, PrerequisiteError, UsageError


def free_url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_server_that_is_not_there_is_a_missing_prerequisite():
    with pytest.raises(PrerequisiteError, match="no SGLang server answers at"):
        open_server(ArmOptions.from_arguments("model"), free_url())


@pytest.mark.parametrize("arguments", [{"dtype": "float16"}, {"attention_backend": "sage_attn", "variant": "exact"}])
def test_engine_settings_belong_to_the_servers_command_line(arguments):
    with pytest.raises(UsageError, match="where the server is started"):
        open_server(ArmOptions.from_arguments("model", **arguments), free_url())


@pytest.mark.parametrize("request_", [ServerEngine.info, ServerEngine.freeze_gc, ServerEngine.flush_cache])
def test_a_server_that_hangs_is_not_waited_for_without_end(monkeypatch, request_):
    monkeypatch.setattr(server, "_CONTROL", httpx.Timeout(0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = ServerEngine(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(EngineError, match="hangs: no answer to /"):
            request_(engine)
        engine.close()
