"""`sage-eval compare` with SGLang's real engine: interrupted in the candidate arm, resumed, and read back."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sage_eval.store import load

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]
TASKS = "tests/compare/tasks/tiny_choice.yaml,tests/compare/tasks/tiny_perplexity.yaml"


def start(model, output):
    return subprocess.Popen(
        [sys.executable, "-m", "sage_eval.cli", "compare", str(model), "--tasks", TASKS, "--output", str(output),
         "--model-args", "max_length=1024,dtype=float32", "--no-calibrate"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def wait_for(condition, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_interrupted_comparison_leaves_nothing_and_resumes(reference_model, tmp_path):
    output = tmp_path / "run"
    journal = output / "arms/candidate/answers.journal"
    process = start(reference_model, output)
    # In the middle: the candidate has kept the answers to one kind of request and is busy with the other.
    wait_for(lambda: journal.exists() and journal.stat().st_size > 500, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finished arms are kept" in errors
    gone, alive = psutil.wait_procs(family, timeout=15)
    assert len(gone) == len(family), alive
    assert (output / "arms/baseline/arm.json").exists()

    process = start(reference_model, output)
    table, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "baseline (SGLang's choice): finished earlier, kept" in errors
    assert "tiny_perplexity" in table

    run = load(output)
    baseline, candidate = (run.comparison.arms[name] for name in ("baseline", "candidate"))
    assert (baseline.backend, candidate.backend) == ("torch_native", "sage_attn")
    assert candidate.engine["kept"]["requests"] > 0
    assert not any(output.rglob("*.journal"))
    counts = candidate.engine["coverage"]
    prefill = {name: count for name, count in counts["tokens"].items() if name.startswith("prefill")}
    assert counts["counted"]
    assert all("/sage" in name for name in prefill)
    assert sum(prefill.values()) == counts["prompt_tokens"] == baseline.engine["coverage"]["prompt_tokens"]
    # Another kernel, the same model: logprobs differ, but by little.
    pairs = list(zip(run.arms["baseline"].samples, run.arms["candidate"].samples, strict=True))
    gaps = [
        abs(a - b) for x, y in pairs for a, b in zip(x.logprobs, y.logprobs, strict=True) if x.task == "tiny_choice"
    ]
    assert 0 < max(gaps) < 0.5
    [distance] = run.fidelity.tasks
    assert (distance.task, distance.arm, distance.k) == ("tiny_perplexity", "candidate", 16)
    assert 0 < distance.statistics.kld.value < 0.05
    nats = [sum(s.logprobs[0] for s in arm.samples if s.task == "tiny_perplexity") for arm in run.arms.values()]
    lost = (nats[0] - nats[1]) / distance.statistics.positions
    assert distance.statistics.log_perplexity.value == pytest.approx(lost, abs=1e-5)
    assert json.loads((output / "comparison.json").read_text())["schema_version"] == 1
