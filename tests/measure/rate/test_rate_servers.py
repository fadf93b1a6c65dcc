"""Two real servers under SGLang's real load generator: measured, taken up again, failing, killed. Random weights."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sage_eval.arms.worker import Worker
from sage_eval.cli import main
from sage_eval.cli.flags import parse
from sage_eval.engine import host
from sage_eval.errors import EngineError
from sage_eval.measure.rate.instrument import Rate
from sage_eval.measure.rate.plan import Load, RatePlan
from sage_eval.measure.rate.summary import Run, summarise
from sage_eval.measure.rate.traffic import Traffic, write_words
from sage_eval.store import record as records
from sage_eval.store.files import write_json
from sage_eval.store.source import source_hash

pytestmark = [pytest.mark.slow, pytest.mark.engine]

ARMS = "torch_native,sage_attn"
OPTIONS = {
    "arms": ARMS, "rates": "4,inf", "input_tokens": 32, "output_tokens": 4, "requests": 5, "running": 4, "repeats": 1,
    "resident": 2, "rehearsal": 1.0,
}  # fmt: skip


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

    found, folder = Rate().measure(plan(model, output), say=say)
    return found, folder, said, sessions


def plan(model, output):
    return parse(RatePlan, {"model": str(model), "output": output, **OPTIONS})


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
    names = ARMS.split(",")
    assert [(row.arm, row.rate, row.block) for row in found.rows] == [
        (names[0], 4.0, 0), (names[1], 4.0, 0), (names[1], None, 1), (names[0], None, 1)
    ]  # fmt: skip
    for row in found.rows:
        assert (row.input_tokens, row.output_tokens) == (5 * 32, 5 * 4)
        assert len(row.ttft) == len(row.sent) == 5
        assert all(0 < ttft <= latency < 60 for ttft, latency in zip(row.ttft, row.latency, strict=True))
        assert max(row.latency) <= row.seconds


def test_requests_are_sent_at_the_rate_and_the_generator_is_hardly_late(measured):
    found, *_ = measured
    assert all(-0.05 < one.late < 1.0 for one in summarise(found))
    assert all(row.sent == sorted(row.sent) for row in found.rows)
    paced, at_once = found.rows[0], found.rows[2]
    assert paced.sent[-1] == pytest.approx(1.0, abs=0.5)  # four gaps
    assert at_once.sent[-1] < 0.2


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
    assert records.read(Run, folder / "rate.json", "rate") == found
    assert found.provenance.code == source_hash()
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


def order(model, folder, backend):
    words = write_words(8192, folder / "words")
    arguments = {"mode": "throughput", "attention_backend": backend, "load_format": "dummy", "max_length": 64}
    return {"model": str(model), "arguments": arguments | {"tokenizer_path": str(words)}}


def test_server_that_does_not_start_is_reported_by_its_own_last_error(model, tmp_path):
    broken = order(model, tmp_path, "torch_native")
    broken["arguments"]["json_model_override_args"] = '{"hidden_act": "nobody"}'
    with (
        Worker("torch_native", Rate.worker, broken, tmp_path) as server,
        pytest.raises(EngineError, match=r"torch_native: its server ended: \w*(Error|Exception).*torch_native\.log"),
    ):
        server.ready()
    assert left(server._process.pid) == []


def test_requests_that_are_refused_or_die_with_their_server_fail_and_say_so(model, tmp_path):
    load = Load(rate=None, repeat=0, requests=2, seed=0)
    too_long = parse(RatePlan, {"model": str(model), **OPTIONS, "input_tokens": 100})
    words = tmp_path / "words"
    with (
        Worker("torch_native", Rate.worker, order(model, tmp_path, "torch_native"), tmp_path) as server,
        Traffic(plan(model, tmp_path), Rate.generator, words, tmp_path) as traffic,
        Traffic(too_long, Rate.generator, words, tmp_path / "other") as refused,
    ):
        server.ready()
        assert len(traffic.send(load, server)["ttft"]) == 2
        with pytest.raises(EngineError, match="all at once: 2 of 2 requests failed: no token came of it"):
            refused.send(load, server)
        [scheduler] = schedulers(server._process.pid)
        scheduler.kill()
        with pytest.raises(EngineError, match="arm torch_native: its server ended: "):
            traffic.send(load, server)
    assert left(server._process.pid) == []


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
