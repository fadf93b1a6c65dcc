"""`sage-eval compare` by the command line: gates, dry runs, and what is refused before or while an engine starts."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.values import ROOT, STORED, TINY, one_line


def tiny_compare(run_folder, *more):
    """The call that made the stored run: both arms are finished, so none is started."""
    manifest = json.loads((run_folder / "manifest.json").read_text())
    arguments = manifest["arguments"]
    settings = ["--lm", arguments["lm"], "--tasks", ",".join(arguments["tasks"]), "--output", run_folder]
    return ["compare", arguments["model"], *settings, "--no-calibrate", *more]


@pytest.fixture
def same_stack(run_folder, monkeypatch):
    """Make the stored arms' fingerprints those of today's versions and of the model beside them."""
    from sage_eval.store import provenance

    monkeypatch.chdir(ROOT)
    spec = json.loads((run_folder / "arms/baseline/arm.json").read_text())["spec"]
    monkeypatch.setattr(provenance, "versions", lambda: spec["stack"])
    monkeypatch.setattr(provenance, "find_model", Path)
    described = {"name": "m", "sha256": spec["model_hash"], "bytes": 0, "files": {}}
    monkeypatch.setattr(provenance, "describe_model", lambda *_: described)
    return run_folder


@pytest.mark.parametrize(("minimum", "expected"), [("tiny_needle=0.5", 0), ("tiny_needle=0.99", 1)])
def test_the_gate_decides_the_exit_code(call, same_stack, minimum, expected):
    code, out, err = call(*tiny_compare(same_stack, "--min", minimum))
    assert code == expected, err
    assert ("**failed**" in out) == bool(expected)
    assert err.count("finished earlier, kept") == 2
    before, after = (json.loads((folder / "manifest.json").read_text()) for folder in (STORED, same_stack))
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"command", "arguments", "given"}


def test_dry_run_counts_requests_and_tokens(call, wordy, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    tasks = ",".join(TINY.format(name) for name in ("choice", "perplexity", "needle"))
    code, out, err = call(
        "compare", wordy(eos=True), "--tasks", tasks, "--limit", 7, "--dry-run", "--json", "--output", tmp_path / "run"
    )
    assert (code, err) == (0, "")
    plan = json.loads(out)
    found = {task["task"]: task for task in plan["tasks"]}
    choice, text, needle = (found[f"tiny_{name}"] for name in ("choice", "perplexity", "needle"))
    # Four answers of a question are one engine request, as each is a single token.
    assert (choice["items"], choice["requests"], choice["engine_requests"]) == (7, 28, 7)
    # "Which is the <i>th letter?\nAnswer:" in words and signs.
    assert choice["prompt_tokens"] == 7 * 8
    assert text["prompt_tokens"] == sum(20 + 3 * i for i in range(7))
    assert (needle["new_tokens"], text["new_tokens"]) == (7 * 8, 0)
    assert plan["seconds"] > 0
    assert not (tmp_path / "run").exists()


def test_dry_run_refuses_what_a_run_would(call, wordy, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = wordy(eos=True)
    code, _, err = call("compare", model, "--tasks", "sage_mmul", "--dry-run")
    assert code == 2
    assert "unknown task 'sage_mmul'; did you mean sage_mmlu" in one_line(err.splitlines()[-1])


def test_a_cut_data_file_is_named(call, wordy, tmp_path, monkeypatch):
    monkeypatch.setenv("SAGE_EVAL_DATA", "")  # the command sets it for the tasks; undone afterwards
    data = tmp_path / "data"
    (data / "wikitext2").mkdir(parents=True)
    (data / "wikitext2" / "wiki.test.raw").write_text(" = Title = \n cut")
    code, _, err = call("compare", wordy(eos=True), "--tasks", "sage_wikitext", "--data-dir", data, "--dry-run")
    assert code == 2
    assert "wiki.test.raw is not the known file (cut short or changed)" in one_line(err.splitlines()[-1])


def in_a_process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sage_eval.cli", "compare", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_an_unknown_backend_lists_the_known_ones(wordy, tmp_path):
    done = in_a_process(wordy(eos=True), "--candidate", "sage_atn", "--baseline", "sage_atn", "--tasks",
                        TINY.format("choice"), "--output", tmp_path / "run")  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "attention_backend='sage_atn' is unknown; did you mean sage_attn" in one_line(done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_port_in_use_is_named(reference_model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = in_a_process(reference_model, "--tasks", TINY.format("choice"), "--output", tmp_path / "run",
                            "--model-args", f"nccl_port={port}")  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert f"nccl_port={port}: Address already in use" in one_line(done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_tokenizer_without_eos_is_one_line(wordy, tmp_path):
    done = in_a_process(wordy(eos=False), "--tasks", TINY.format("perplexity"), "--output", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "neither BOS nor EOS" in one_line(done.stderr.splitlines()[-1])
