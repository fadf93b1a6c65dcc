"""SGLang's router before two real servers, one of them with two data-parallel ranks, beside the engine in process."""

import contextlib
import os
import subprocess
import sys
import time

import httpx
import pytest
from lm_eval.api.instance import Instance

from sage_eval.cli import main
from sage_eval.engine import coverage
from sage_eval.engine.client import KEYS
from sage_eval.measure.quick.record import QuickRecord
from tests.servers import free_port, serving

pytestmark = [pytest.mark.slow, pytest.mark.engine]

SETTINGS = {"attention_backend": "sage_attn", "dtype": "float32"}
FLAGS = (
    "--attention-backend", "sage_attn", "--dtype", "float32", "--enable-fp32-lm-head", "--context-length", "2200",
)  # fmt: skip


@pytest.fixture(scope="module")
def router(reference_model, tmp_path_factory):
    """Its address, and those of the servers."""
    pytest.importorskip("sglang_router", reason="pip install sglang-router")
    logs = tmp_path_factory.mktemp("servers")
    with (
        serving(reference_model, logs / "one.txt", *FLAGS) as one,
        serving(reference_model, logs / "two.txt", *FLAGS, "--dp-size", "2") as two,
        (logs / "router.txt").open("w") as log,
    ):
        port = free_port()
        command = [
            sys.executable, "-m", "sglang_router.launch_router", "--worker-urls", one.url, two.url, "--port", str(port),
            "--prometheus-port", str(free_port()), "--policy", "round_robin",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if len(httpx.get(f"{url}/workers").json()["workers"]) == 2:
                        break
                assert time.monotonic() < deadline, (logs / "router.txt").read_text()[-2000:]
                time.sleep(0.5)
            yield url, (one.url, two.url)
        finally:
            process.kill()
            process.wait()


def test_a_server_with_two_ranks_is_fine(router, tmp_path):
    file = tmp_path / "quick.json"
    code = main(["quick", "--base-url", router[1][1], "--output", str(file), "--seconds", "600"])
    record = QuickRecord.model_validate_json(file.read_text())
    assert (code, record.missing, record.failed) == (0, {}, {})
    assert record.server["dp_size"] == 2
    assert [way.way for way in record.determinism] == ["repeat", "batched", "shuffled"]


def test_scores_through_the_router_are_those_in_process_and_coverage_is_summed(
    router, reference_model, prose, monkeypatch
):
    from model_adapters.sglang_sage import SGLangSageLM

    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    texts = [
        Instance("loglikelihood_rolling", {}, (prose[start : start + 900],), start) for start in range(0, 5400, 900)
    ]
    remote = SGLangSageLM(str(reference_model), base_url=router[0], **SETTINGS)
    try:
        found = remote.loglikelihood_rolling(texts)
        counted, states = remote.arm.coverage, remote.arm.info()["internal_states"]
    finally:
        remote.close()
    ranks = [sum(coverage.read_counters({"internal_states": [state]}).values()) for state in states]
    assert len(ranks) == 3
    assert all(ranks)
    assert sum(counted.prefill().values()) == counted.computed_tokens
    local = SGLangSageLM(str(reference_model), max_length=remote.max_length, **SETTINGS)
    try:
        assert found == pytest.approx(local.loglikelihood_rolling(texts), abs=1e-2)
    finally:
        local.close()
