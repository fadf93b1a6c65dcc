"""Two real servers under SGLang's real load generator: measured, taken up again, failing, killed. Random weights."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sage_eval.attention.source import source_hash
from sage_eval.cli import main
from sage_eval.engine import host
from sage_eval.errors import EngineError
from sage_eval.probes.rate import record
from sage_eval.probes.rate.client import Generator, Server
from sage_eval.probes.rate.load import Load
from sage_eval.probes.rate.run import bench
from sage_eval.probes.rate.words import write_words
from sage_eval.runs.files import write_json

pytestmark = [pytest.mark.slow, pytest.mark.engine]

ARMS = "torch_native,sage_attn"
OPTIONS = {
    "input_tokens": 32, "output_tokens": 4, "requests": 5, "running": 4, "repeats": 1, "resident": 2, "rehearsal": 1.0
}  # fmt: skip
RATES = (4.0, None)


@pytest.fixture(scope="module")
def model(reference_model, tmp_path_factory):
    """The reference model's configuration with two layers, and no weights."""
    folder = tmp_path_factory.mktemp("shape")
    config = json.loads((reference_model / "config.json").read_text())
    write_json(folder / "config.json", config | {"num_hidden_layers": 2})
    return folder


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    """Record, folder, what was said meanwhile, and the sessions of all processes that were started."""
    output, said, sessions = tmp_path_factory.mktemp("runs") / "bench", [], set()

    def say(text):
        said.append(text)
        sessions.update(child.pid for child in psutil.Process().children() if session(child) == child.pid)

    found, folder = bench(str(model), ARMS, RATES, output=output, say=say, **OPTIONS)
    return found, folder, said, sessions


def session(process):
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def left(*sessions):
    """What still runs of these sessions, whoever its parent is now."""
    return [process for process in psutil.process_iter() if session(process) in sessions and host.alive(process)]


def test_both_arms_answer_every_request_at_every_rate(measured):
    found, _, said, _ = measured
    assert {arm.error for arm in found.arms.values()} == {None}, said
    assert [(block.rate, block.repeat) for block in found.blocks] == [(4.0, 0), (None, 0)]
    for block in found.blocks:
        assert block.interleaved
        assert set(block.results) == set(ARMS.split(","))
        for result in block.results.values():
            assert (result.input_tokens, result.output_tokens) == (5 * 32, 5 * 4)
            assert len(result.ttft) == len(block.arrivals) == 5
            assert all(0 < ttft <= latency < 60 for ttft, latency in zip(result.ttft, result.latency, strict=True))
            assert max(result.latency) <= result.seconds


def test_the_load_generator_keeps_to_the_plan(measured):
    """The plan is this project's, the pauses are SGLang's: what neither they nor the answers explain is little."""
    found, *_ = measured
    assert all(-0.05 < row["behind"] < 1.0 for row in found.summary["rows"])


def test_each_server_ran_what_it_was_asked_to(measured):
    found, *_ = measured
    assert [arm.engine["attention_backend"] for arm in found.arms.values()] == ARMS.split(",")
    assert [arm.role for arm in found.arms.values()] == ["baseline", "candidate"]
    kernels = found.arms["sage_attn"].coverage
    assert all("/sage-" in name for name in kernels)
    # The server's own warm-up is one token; the generator warms up with one prompt a run.
    warm_up, rehearsals, runs = 4 + 1, (4 + 1) + (5 + 1), 2 * (5 + 1)
    prompts = warm_up + rehearsals + runs
    assert sum(tokens for name, tokens in kernels.items() if name.startswith("prefill")) == prompts * 32 + 1


def test_the_same_server_can_be_started_by_hand(measured, model):
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()  # as `sglang.launch_server` does
    found, *_ = measured
    arm = found.arms["sage_attn"]
    environment, _, arguments = arm.command.partition("python -m sglang.launch_server ")
    assert "SAGE_ATTN_VARIANT=int8-fp16" in environment.split()
    parsed = prepare_server_args(arguments.replace("MODEL", str(model)).split())
    assert parsed.attention_backend == "sage_attn"
    for name in ("max_running_requests", "max_total_tokens", "disable_radix_cache", "sleep_on_idle", "load_format"):
        assert getattr(parsed, name) == found.settings["engine"][name]


def test_the_file_and_its_rendering_are_what_was_returned(measured, capsys):
    found, folder, *_ = measured
    assert record.read(folder / record.RATE) == found
    assert found.code == source_hash()
    assert main(["report", str(folder)]) == 0
    assert "| all at once | `sage_attn` |" in capsys.readouterr().out
    assert (folder / "figures" / "rate-ttft.svg").exists()
    assert {path.name for path in (folder / "logs").iterdir()} == {
        "torch_native.log", "sage_attn.log", "bench_serving.log"
    }  # fmt: skip


def test_nothing_is_left_running(measured):
    *_, sessions = measured
    assert len(sessions) == 3
    assert left(*sessions) == []


def test_a_finished_measurement_starts_no_server_again(measured, model):
    found, folder, *_ = measured
    said = []
    again, _ = bench(str(model), ARMS, RATES, output=folder, say=said.append, **OPTIONS)
    assert again.blocks == found.blocks
    assert said == []


def order(model, folder, backend):
    words = write_words(8192, folder / "words")
    arguments = {"mode": "throughput", "attention_backend": backend, "load_format": "dummy", "max_length": 64}
    return {"model": str(model), "arguments": arguments | {"tokenizer_path": str(words)}}


def test_a_server_that_does_not_start_is_reported_by_its_own_last_error(model, tmp_path):
    server = Server("flashinfer", order(model, tmp_path, "flashinfer"), tmp_path)
    try:
        with pytest.raises(EngineError, match=r"flashinfer: its server ended: \w*(Error|Exception).*flashinfer\.log"):
            server.ready()
    finally:
        server.close()
    assert left(server._process.pid) == []


def test_requests_that_are_refused_or_die_with_their_server_fail_and_say_so(model, tmp_path):
    server = Server("torch_native", order(model, tmp_path, "torch_native"), tmp_path)
    generator = Generator(tmp_path, tmp_path / "words", tmp_path)
    load = Load(rate=None, requests=2, input_tokens=32, output_tokens=4, seed=0, vocabulary=8192)
    try:
        generator.ready()
        server.ready()
        assert len(generator.run(load, server.url).ttft) == 2
        refused = load.model_copy(update={"input_tokens": 100})
        with pytest.raises(EngineError, match="2 of 2 requests failed, all at once: no token came of it"):
            generator.run(refused, server.url)
        [scheduler] = schedulers(server._process.pid)
        scheduler.kill()
        with pytest.raises(EngineError) as caught:
            generator.run(load, server.url)
        assert "torch_native ended" in str(server.explain(caught.value))
    finally:
        server.close()
        generator.close()
    assert left(server._process.pid, generator._process.pid) == []


def test_when_the_command_is_killed_its_servers_end_too(model, tmp_path):
    command = [
        sys.executable, "-m", "sage_eval.cli", "bench", "rate", str(model), "--arms", ARMS, "--rates", "1",
        "--resident", "2", "--input-tokens", "32", "--output-tokens", "4", "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[3], start_new_session=True
    )
    try:
        until(lambda: len(schedulers(process.pid)) == 2)
        sessions = {session(child) for child in psutil.Process(process.pid).children()}
    finally:
        process.kill()
        process.wait()
    assert len(sessions) == 3
    until(lambda: left(*sessions) == [])


def schedulers(parent):
    """SGLang's schedulers below the process `parent`, by the name they give themselves."""
    return [child for child in psutil.Process(parent).children(recursive=True) if "scheduler" in child.name()]


def until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
