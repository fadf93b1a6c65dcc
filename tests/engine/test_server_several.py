"""Several addresses, and SGLang's router before some; `tests/model_adapters/test_router.py` has a real one."""

import json

import pytest

from sage_eval.engine.coverage import read_counters
from sage_eval.errors import EngineError, PrerequisiteError
from tests.servers import REQUESTS, answers, expected, generated, hang, opened

pytestmark = pytest.mark.usefixtures("short_pauses")
HTML = answers(200, "<html><body>It works!</body></html>", "text/html")


def test_requests_are_shared_out_and_each_is_sent_once(small):
    one, other, right = small(), small(), expected(small)
    for server in (one, other):
        server.faults["/generate"] = [hang(0.05)] * 12
    with opened(one, other, connections=2) as arm:
        assert arm.score(REQUESTS) == right
    shares = [generated(one), generated(other)]
    assert all(len(share) >= 4 for share in shares)
    assert sorted([*shares[0], *shares[1]]) == sorted([1, 2, n, n % 3] for n in range(1, 13))


def test_servers_that_are_not_alike_are_refused(small):
    one, other = small(), small()
    other.info["attention_backend"] = "fa3"
    with pytest.raises(PrerequisiteError, match=r"not alike: attention_backend is 'triton' at .* and 'fa3' at"):
        opened(one, other)


def test_another_model_behind_the_second_address_is_named(small):
    one, other = small(), small()
    other.model |= {"model_path": "/models/large", "served_model_name": "large"}
    with pytest.raises(
        PrerequisiteError, match=f"not alike: model_path is .*tiny' at {one.url} and .*large' at {other.url}"
    ):
        opened(one, other)
    assert generated(one) == generated(other) == []


def test_another_model_that_comes_up_behind_the_second_address_meanwhile_is_an_error(small):
    one, other = small(), small()
    with opened(one, other) as arm:
        arm.score(REQUESTS)
        other.model |= {"model_path": "/models/large"}
        with pytest.raises(PrerequisiteError, match=f"large' at {other.url}"):
            arm.score(REQUESTS)


def test_a_slow_server_whose_queue_is_full_leaves_more_to_the_other(small):
    slow, fast, right = small(), small(), expected(small)
    slow.faults["/generate"] = [answers(503, "queue is full", retry_after="0"), hang(0.3)] * 6
    with opened(slow, fast, connections=1) as arm:
        assert arm.score(REQUESTS) == right
        assert arm.coverage.prompt_tokens == 4 * len(REQUESTS)
    assert len({*map(tuple, generated(fast))}) > len({*map(tuple, generated(slow))}) > 0


def test_a_server_that_hangs_beside_one_that_does_not_is_named(small):
    one, other = small(), small()
    other.faults["/generate"] = [hang(2)]
    reason = f"at {other.url} hangs: no answer to /generate within 0\\.2 s"
    with opened(one, other, silence=0.2) as arm, pytest.raises(EngineError, match=reason):
        arm.score(REQUESTS)


def test_what_the_servers_computed_is_added_up(small):
    one, other = small(), small()
    for server, tokens in ((one, 8), (other, 4)):
        counted = {"sage_attn_coverage": {"layers": 2, "tokens": {"prefill/sage": tokens}}}
        server.info |= {"attention_backend": "sage_attn", "internal_states": [counted]}
    with opened(one, other) as arm:
        assert read_counters(arm.info()) == {"prefill/sage": 6}


def test_a_routers_servers_tell_what_they_are_and_have_computed(small):
    router, one, other = small(), small(), small()
    for server, tokens in ((one, 8), (other, 4)):
        counted = {"sage_attn_coverage": {"layers": 2, "tokens": {"prefill/sage": tokens}}}
        server.info |= {"attention_backend": "sage_attn", "internal_states": [counted]}
    behind = json.dumps({"workers": [{"url": one.url}, {"url": other.url}]})
    router.faults = {"/server_info": [answers(404, "")], "/workers": [answers(200, behind)]}
    with opened(router) as arm:
        assert read_counters(arm.info()) == {"prefill/sage": 6}
        assert len(list(arm.transport.stream([{"input_ids": [1], "token_ids_logprob": [2]}]))) == 1
    assert (len(generated(router)), generated(one), generated(other)) == (1, [], [])


def test_a_routers_servers_that_are_not_alike_are_refused(small):
    router, one, other = small(), small(), small()
    other.info["attention_backend"] = "fa3"
    behind = json.dumps({"workers": [{"url": one.url}, {"url": other.url}]})
    router.faults = {"/server_info": [answers(404, "")], "/workers": [answers(200, behind)]}
    with pytest.raises(PrerequisiteError, match=rf"not alike: .* at {one.url} and 'fa3' at {other.url}"):
        opened(router)


def test_what_has_neither_server_info_nor_servers_behind_it_is_named(small):
    server = small()
    server.faults = {"/server_info": [answers(404, "")], "/workers": [answers(404, "")]}
    with pytest.raises(PrerequisiteError, match="has no /server_info"):
        opened(server)
