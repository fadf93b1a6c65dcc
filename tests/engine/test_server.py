"""The HTTP transport against small local servers that misbehave; `test_server_engine.py` has the real ones."""

import logging
import socket
import threading
import time

import pytest

from sage_eval.engine import client
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.server import ServerEngine, open_server
from sage_eval.errors import EngineError, PrerequisiteError, UsageError
from tests.servers import REQUESTS, answers, cut, expected, free_port, generated, hang, opened

pytestmark = pytest.mark.usefixtures("short_pauses")
HTML = answers(200, "<html><body>It works!</body></html>", "text/html")


# -- addresses ----------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_a_missing_prerequisite():
    with pytest.raises(PrerequisiteError, match="no SGLang server answers at"):
        open_server(ArmOptions.from_arguments("model"), f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("url", ["", ";", "127.0.0.1:30000", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match="write http://HOST:PORT"):
        ServerEngine(url)


@pytest.mark.parametrize("url", ["http://me:topsecret@host", "http://host?key=topsecret"])
def test_an_address_with_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match="put the key into SGLANG_API_KEY") as caught:
        ServerEngine(url)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HTML, "is no SGLang server: it answered /server_info with text/html, not JSON: '<html>"),
        (answers(200, '{"model": "other"}'), "is no SGLang server: its /server_info tells of no engine"),
        (answers(302, "", location="https://elsewhere/"), "redirects to https://elsewhere/: give the SGLang server's"),
        (answers(404, "no"), r"has no /server_info \(404\)"),
        (answers(401, "no"), r"wants a key \(401\): set SGLANG_API_KEY"),
    ],
)
def test_an_address_of_something_else_is_named_for_what_it_is(small, answer, reason):
    server = small()
    server.faults["/server_info"] = [answer]
    with pytest.raises(PrerequisiteError, match=reason):
        opened(server)


# -- what the server is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "/models/tiny", "somebody/tiny", "/elsewhere/tiny/"])
def test_a_model_is_known_by_its_name_wherever_it_lies(small, name):
    opened(small(), model=name).close()


def test_another_model_is_an_error_unless_it_is_said_to_be_the_same(small):
    server = small()
    with pytest.raises(PrerequisiteError, match=r"serves the model tiny, not large; .* say served_model=tiny"):
        opened(server, model="large")
    opened(server, model="large", served_model="tiny").close()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"attention_backend": "fa3"}, "prefill_attention_backend=fa3 was asked for, and the server has triton"),
        ({"decode_attention_backend": "fa3"}, "decode_attention_backend=fa3 was asked for"),
        ({"dtype": "bfloat16"}, "dtype=bfloat16 was asked for, and the server has float16"),
        ({"mode": "fidelity"}, "mode=fidelity was asked for, and the server has throughput"),
    ],
)
def test_a_server_with_other_settings_than_asked_for_is_an_error(small, arguments, reason):
    with pytest.raises(PrerequisiteError, match=reason):
        opened(small(), arguments=arguments)


def test_a_server_with_the_settings_asked_for_is_taken(small):
    with opened(small(), arguments={"attention_backend": "triton", "dtype": "float16", "mode": "throughput"}) as arm:
        assert arm.backend == "triton"


def test_settings_of_sage_attn_are_compared_where_the_plugin_tells_them(small):
    server = small()
    server.info |= {"attention_backend": "sage_attn", "internal_states": [{"sage_attn_settings": {"variant": "exact"}}]}
    opened(server, arguments={"attention_backend": "sage_attn", "variant": "exact"}).close()
    opened(server, arguments={"attention_backend": "sage_attn"}).close()
    with pytest.raises(PrerequisiteError, match="variant=int8-fp8 was asked for, and the server has exact"):
        opened(server, arguments={"attention_backend": "sage_attn", "variant": "int8-fp8"})


def test_a_server_that_changes_in_the_middle_is_an_error(small):
    server = small()
    with opened(server) as arm:
        arm.score(REQUESTS[:1])
        server.model["model_path"] = "/models/another"
        reason = "has changed: its model_path was '/models/tiny' and is '/models/another'"
        with pytest.raises(EngineError, match=reason):
            arm.score(REQUESTS[1:2])


def test_tokens_that_the_model_does_not_have_are_not_sent(small):
    server = small()
    with opened(server, vocabulary=12) as arm, pytest.raises(UsageError, match="the model has no token 12"):
        arm.score(REQUESTS)
    assert generated(server) == []


# -- requests -----------------------------------------------------------------------------------------------------


def test_no_more_requests_are_on_their_way_than_allowed(small):
    server = small()
    server.faults["/generate"] = [hang(0.02)] * 12
    with opened(server, connections=3) as arm:
        arm.score(REQUESTS)
    assert 2 <= server.most <= 3


def test_connections_are_kept_and_used_again(small):
    server, ports = small(), set()

    def note(handler):
        ports.add(handler.client_address[1])

    server.faults["/generate"] = [note] * 12
    with opened(server, connections=2) as arm:
        arm.score(REQUESTS)
    assert len(ports) <= 3


@pytest.mark.parametrize(
    "fault", [answers(503, "queue is full"), answers(429, "slow down", retry_after="0"), cut, answers(200, '{"cut')]
)
def test_a_request_that_fails_for_a_while_is_sent_again_and_counted_once(small, fault):
    server, right = small(), expected(small)
    server.faults["/generate"] = [fault, fault]
    with opened(server) as arm:
        assert arm.score(REQUESTS) == right
        assert arm.coverage.prompt_tokens == 4 * len(REQUESTS)
    assert len(generated(server)) == len(REQUESTS) + 2


def test_a_server_that_stays_busy_is_an_error_in_the_end(small):
    server = small()
    server.faults["/generate"] = [answers(503, "queue is full")] * 99
    reason = "answered 503: queue is full; given up after 2 retries"
    with opened(server, retries=2) as arm, pytest.raises(EngineError, match=reason):
        arm.score(REQUESTS[:1])
    assert len(generated(server)) == 3


def test_a_server_that_goes_away_is_named(small):
    server = small()
    with opened(server, retries=1) as arm:
        arm.score(REQUESTS[:1])
        server.close()
        server.faults["/generate"] = [cut] * 99
        with pytest.raises(EngineError, match=r"does not answer any more .*; given up after 1 retries"):
            arm.score(REQUESTS)


def test_a_server_that_is_busy_for_a_while_still_empties_its_cache(small):
    server = small()
    flush = "/flush_cache?timeout=60"
    server.faults[flush] = [answers(503, "not yet"), answers(200, "Cache flushed.", "text/plain")]
    with opened(server) as arm:
        arm.flush_cache()
    assert [path for path, *_ in server.seen].count(flush) == 2


def test_a_refused_request_is_not_sent_again(small):
    server = small()
    server.faults["/generate"] = [answers(400, '{"error": "too long"}')]
    with opened(server) as arm, pytest.raises(EngineError, match=r"answered 400: .*too long"):
        arm.score(REQUESTS[:1])
    assert len(generated(server)) == 1


@pytest.mark.parametrize("body", ["[]", '{"text": "no numbers"}'])
def test_json_that_is_no_reply_is_an_error(small, body):
    server = small()
    server.faults["/generate"] = [answers(200, body)]
    with opened(server) as arm, pytest.raises(EngineError, match="answered with JSON that is no reply"):
        arm.score(REQUESTS[:1])


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (HTML, PrerequisiteError, "is no SGLang server: it answered /generate with text/html, not JSON: '<html>"),
        (answers(302, "", location="https://login/"), PrerequisiteError, "redirects to https://login/"),
        (answers(502, "<html>bad gateway", "text/html"), EngineError, "answered 502: <html>bad gateway"),
    ],
)
def test_a_proxy_that_answers_in_the_middle_is_named_for_what_it_says(small, answer, kind, reason):
    server = small()
    with opened(server) as arm:
        arm.score(REQUESTS)
        server.faults["/generate"] = [answer] * 99
        with pytest.raises(kind, match=reason) as error:
            arm.score(REQUESTS)
    assert "\n" not in str(error.value)


def test_a_request_that_sglang_aborts_is_an_error(small):
    server = small()
    body = '{"meta_info": {"finish_reason": {"type": "abort", "message": "out of memory"}}}'
    server.faults["/generate"] = [answers(200, body)]
    with opened(server) as arm, pytest.raises(EngineError, match="aborted a request: out of memory"):
        arm.score(REQUESTS[:1])


def test_a_server_that_hangs_is_not_waited_for_without_end(small):
    server = small()
    server.faults["/generate"] = [hang(2)]
    with opened(server, silence=0.2) as arm:
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"hangs: no answer to /generate within 0\.2 s"):
            arm.score(REQUESTS)
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("request_", [ServerEngine.info, ServerEngine.freeze_gc, ServerEngine.flush_cache])
def test_a_port_that_says_nothing_is_not_waited_for_without_end(request_):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = ServerEngine(f"http://127.0.0.1:{silent.getsockname()[1]}", silence=0.2)
        with pytest.raises(EngineError, match="hangs: no answer to /"):
            request_(engine)
        engine.close()


def test_a_clock_that_jumps_changes_nothing(small, monkeypatch):
    server, right = small(), expected(small)
    server.faults["/generate"] = [answers(503, "")]
    with opened(server) as arm:
        monkeypatch.setattr(time, "time", iter(range(10**9, 0, -(10**6))).__next__)
        assert arm.score(REQUESTS) == right


def test_closing_leaves_no_thread(small):
    before = threading.active_count()
    engine = ServerEngine(small().url)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.info()
    assert not [thread for thread in threading.enumerate() if thread.name == "sglang-client"]
    assert threading.active_count() <= before + 1  # the small server's own


# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sent"),
    [(client.KEYS, "Bearer of-SGLANG_API_KEY"), (client.KEYS[1:], "Bearer of-OPENAI_API_KEY"), ((), None)],
)
def test_the_key_comes_from_the_environment(small, monkeypatch, names, sent):
    for name in names:
        monkeypatch.setenv(name, f"of-{name}")
    server = small()
    with opened(server) as arm:
        arm.score(REQUESTS[:1])
    assert {headers.get("authorization", headers.get("Authorization")) for _, headers, _ in server.seen} == {sent}


def test_requests_leave_no_line_each_in_the_log(small, caplog):
    caplog.set_level(logging.INFO)
    with opened(small()) as arm:
        arm.score(REQUESTS)
    assert small().url.rpartition(":")[0] not in caplog.text


def test_no_key_is_in_an_error_in_the_info_or_in_the_log(small, monkeypatch, caplog):
    monkeypatch.setenv("SGLANG_API_KEY", "topsecret")
    caplog.set_level(logging.DEBUG)
    server = small()
    server.info |= {"api_key": "topsecret", "launch_command": "--api-key topsecret"}
    server.info |= {"internal_states": [{"admin_api_key": "topsecret"}]}
    server.faults["/generate"] = [answers(500, "you sent topsecret")]
    with opened(server) as arm:
        assert "topsecret" not in str(arm.info())
        with pytest.raises(EngineError, match="answered 500: you sent …"):
            arm.score(REQUESTS[:1])
    assert "topsecret" not in caplog.text
