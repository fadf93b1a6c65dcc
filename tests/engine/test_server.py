import socket

import pytest

from sage_eval.engine.options import ArmOptions
from sage_eval.engine.server import open_server
from sage_eval.errors import PrerequisiteError, UsageError


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
