"""The adapter through a real server beside the adapter in process: the same scores; and servers that die."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from lm_eval.api.instance import Instance

from sage_eval.engine import client
from sage_eval.errors import EngineError, PrerequisiteError
from tests.conftest import ROOT
from tests.servers import serving

pytestmark = [pytest.mark.slow, pytest.mark.engine]

SETTINGS = {"attention_backend": "sage_attn", "dtype": "float32", "mode": "fidelity"}


@pytest.fixture(scope="module")
def server(reference_model, tmp_path_factory):
    """One prompt a batch: what stands beside it in a batch may change its last bit."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serving(
        reference_model, log, "--attention-backend", "sage_attn", "--dtype", "float32", "--enable-fp32-lm-head",
        "--disable-radix-cache", "--chunked-prefill-size", "-1", "--max-running-requests", "1",
    ) as served:  # fmt: skip
        yield served


@pytest.fixture(scope="module")
def remote(reference_model, server):
    from model_adapters.sglang_sage import SGLangSageLM

    lm = SGLangSageLM.create_from_arg_obj(
        {"pretrained": str(reference_model), "base_url": server.url, "max_retries": 1, "timeout": 120, **SETTINGS}
    )
    yield lm
    lm.close()


def instance(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def answers(lm, prose):
    question = prose[:400] + "\nThe answer is"
    choices = [instance("loglikelihood", question, f" {letter}") for letter in "ABCD"]
    choices += [instance("loglikelihood", prose[:90], prose[90:200])]
    rolling = [instance("loglikelihood_rolling", prose[:3000])]
    texts = [instance("generate_until", prose[:200], {"until": ["\n"], "max_gen_toks": 12})]
    return lm.loglikelihood(choices), lm.loglikelihood_rolling(rolling), lm.generate_until(texts)


def test_log_probabilities_are_those_of_the_engine_in_process(reference_model, remote, prose):
    from model_adapters.sglang_sage import SGLangSageLM

    over_http = answers(remote, prose)
    assert remote.arm.coverage.counted
    local = SGLangSageLM(str(reference_model), max_running_requests=1, **SETTINGS)
    try:
        assert answers(local, prose) == over_http
    finally:
        local.close()


def test_the_answers_of_a_question_are_one_request(remote, prose, monkeypatch):
    sent = []
    stream = remote.arm.transport.stream
    monkeypatch.setattr(remote.arm.transport, "stream", lambda batch: (sent.extend(batch), stream(batch))[1])
    remote.loglikelihood([instance("loglikelihood", "The answer is", f" {letter}") for letter in "ABCD"])
    [payload] = sent
    assert len(payload["token_ids_logprob"]) == 4


def test_lm_evals_command_scores_and_writes_no_key(reference_model, server, tmp_path):
    command = [
        sys.executable, "-m", "sage_eval.cli", "lm-eval", "--model", "sglang-sage", "--model_args",
        f"pretrained={reference_model},base_url={server.url},num_concurrent=4",
        "--tasks", "sage_prose", "--limit", "1", "--output_path", str(tmp_path),
    ]  # fmt: skip
    environment = os.environ | {"SGLANG_API_KEY": "topsecret"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    [results] = tmp_path.rglob("results_*.json")
    text = results.read_text()
    assert json.loads(text)["config"]["attention_backend"] == "sage_attn"
    assert "topsecret" not in text + done.stdout + done.stderr


def test_another_backend_than_the_servers_is_refused(reference_model, server):
    from model_adapters.sglang_sage import SGLangSageLM

    with pytest.raises(PrerequisiteError, match="torch_native was asked for, and the server has sage_attn"):
        SGLangSageLM(str(reference_model), base_url=server.url, attention_backend="torch_native")


def test_a_server_whose_scheduler_dies_in_the_middle_is_named(remote, server, prose, monkeypatch):
    """The last of the module: the server is gone afterwards."""
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.1)
    texts = [instance("loglikelihood_rolling", prose[start:]) for start in range(0, 2000, 20)]
    schedulers = [
        child for child in psutil.Process(server.process.pid).children(recursive=True) if "scheduler" in child.name()
    ]
    stream = remote.arm.transport.stream

    def killing(batch):
        for count, pair in enumerate(stream(batch)):
            if count == 1:
                os.kill(schedulers[0].pid, signal.SIGKILL)
            yield pair

    monkeypatch.setattr(remote.arm.transport, "stream", killing)
    with pytest.raises(EngineError, match=f"the SGLang server at {server.url}"):
        remote.loglikelihood_rolling(texts)
    assert server.process.wait(60) != 0
