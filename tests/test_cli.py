"""The command line: exit codes, what goes to stdout and to stderr, and that errors are one line."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sage_eval import __version__
from sage_eval.cli import main

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests" / "runs" / "stored" / "schema_1"


@pytest.fixture
def call(capsys):
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_folder(tmp_path):
    return Path(shutil.copytree(STORED, tmp_path / "run"))


@pytest.fixture
def calibrated(tmp_path):
    return Path(shutil.copytree(STORED.with_name("schema_1_calibrated"), tmp_path / "calibrated"))


def one_line(text: str) -> str:
    [line] = text.splitlines()
    assert line.startswith("sage-eval: error: ")
    return line


def test_help_loads_nothing_heavy():
    code = (
        "import sys, sage_eval.cli; sage_eval.cli.main(['compare', '--help']); "
        "heavy = {'torch', 'sglang', 'lm_eval', 'transformers', 'scipy', 'numpy', 'matplotlib', 'jinja2'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "command", ["compare", "report", "prepare", "doctor", "calibrate", "stress", "bench", "probe", "version"]
)
def test_every_command_has_help(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert command in out


def test_version(call):
    assert call("version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [["compare", "m", "--limt", "3"], ["nothing"], ["report"], ["compare", "m", "--limit", "x"]]
)
def test_usage_errors_are_2_and_leave_stdout_alone(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model is missing"),
        (["m", "--limit", "0"], "limit=0"),
        (["m", "--mode", "fast"], "mode='fast'"),
        (["m", "--variant", "int2"], "variant='int2'"),
        (["m", "--min", "sage_mmlu"], "not of the form name=value"),
        (["./nowhere"], "model ./nowhere is not a folder"),
        (["m", "--config", "nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_2(call, arguments, message):
    code, out, err = call("compare", *arguments)
    assert (code, out) == (2, "")
    assert message in one_line(err)


def test_flags_reach_the_configuration(call, monkeypatch):
    from sage_eval.runs import plan

    seen = []
    monkeypatch.setattr(plan, "plan", lambda config: seen.append(config) or plan.Plan(
        tasks=[], arms=2, tokens_per_second=1, rate_from="", seconds=0))  # fmt: skip
    code, _, err = call(
        "compare", "m", "--candidate", "fa3", "--baseline", "triton", "--tasks", "a,b", "--limit", 3, "--mode",
        "throughput", "--data-dir", "d", "--output", "o", "--min", "a=0.5", "--min", "b=0.6", "--model-args", "x=1,y=z",
        "--task-args", "n=2", "--seed", 7, "--kernel", "torch", "--variant", "exact", "--smooth-k", "off", "--shift",
        "s", "--decode", "exact", "--min-tokens", 5, "--strict", "--calibrate", "--arms", "reorder,control", "--margin",
        "a=0.01", "--margin", "accuracy=0.1", "--fail-on", "worse,not-established",
        "--top-logprobs", 4, "--parallel", 3, "--dry-run",
    )  # fmt: skip
    assert code == 0, err
    [config] = seen
    assert config.model_dump(mode="json") == {
        "model": "m", "candidate": "fa3", "baseline": "triton", "tasks": ["a", "b"], "limit": 3, "mode": "throughput",
        "data_dir": "d", "output": "o", "min": {"a": 0.5, "b": 0.6}, "model_args": {"x": 1, "y": "z"},
        "task_args": {"n": 2}, "seed": 7, "lm": "sglang-sage", "top_logprobs": 4, "parallel": 3,
        "attention": {"kernel": "torch", "variant": "exact", "smooth_k": "off", "shift": "s", "decode": "exact",
                      "min_tokens": 5, "strict": True},
        "arms": ["repeat", "exact", "control", "reorder"], "margin": {"a": 0.01, "accuracy": 0.1},
        "fail_on": ["worse", "not established"],
    }  # fmt: skip


def test_report_renders_again_without_an_engine(call, calibrated):
    before = json.loads((calibrated / "comparison.json").read_text())
    for name in ("report.md", "comparison.json"):
        (calibrated / name).unlink()
    code, out, err = call("report", calibrated)
    assert (code, err) == (0, "")
    assert out.startswith("**Verdict: worse in 1 of 3 tasks: tiny_perplexity.**")
    stored = (ROOT / "tests" / "report" / "calibrated.md").read_text().splitlines()
    again = (calibrated / "report.md").read_text().splitlines()
    # What is compared anew has a line that the stored comparison knows nothing of.
    assert set(stored) <= set(again)
    assert any("near-ties" in line for line in again if line not in stored)
    verdicts = [json.loads((calibrated / "comparison.json").read_text())["verdict"], before["verdict"]]
    assert (
        len({json.dumps([(task["task"], task["verdict"]) for task in verdict["tasks"]]) for verdict in verdicts}) == 1
    )


def test_report_writes_the_page_and_its_figures(call, calibrated, tmp_path):
    elsewhere = tmp_path / "pages" / "page.html"
    code, out, err = call("report", calibrated, "--html", elsewhere)
    assert (code, err) == (0, "")
    assert out.startswith("**Verdict: worse in 1 of 3 tasks: tiny_perplexity.**")
    assert elsewhere.read_bytes() == (calibrated / "report.html").read_bytes()
    assert {path.name for path in (calibrated / "figures").iterdir()} == {
        "differences.svg", "retrieval-tiny-needle-single.svg",
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_read_and_said(call, calibrated, tmp_path, monkeypatch):
    from sage_eval.report import html

    # Root may write anywhere, so that permissions cannot be the test.
    monkeypatch.setattr(html, "writable", lambda _folder: False)
    before = {path: path.stat().st_mtime_ns for path in sorted(calibrated.rglob("*"))}
    code, out, err = call("report", calibrated, "--html", tmp_path / "page.html")
    assert code == 0
    assert out.startswith("**Verdict: worse in 1 of 3 tasks: tiny_perplexity.**")
    assert "is read-only, so nothing was written there" in err
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert {path: path.stat().st_mtime_ns for path in sorted(calibrated.rglob("*"))} == before


def test_json_on_stdout_is_the_comparison(call, run_folder):
    code, out, _ = call("report", run_folder, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((run_folder / "comparison.json").read_text())


def test_a_damaged_run_folder_is_one_line(call, run_folder):
    (run_folder / "arms/baseline/samples.jsonl.zst").write_bytes(b"")
    code, out, err = call("report", run_folder)
    assert (code, out) == (2, "")
    assert "samples.jsonl.zst is cut short or damaged" in one_line(err)


def tiny_compare(run_folder, *more):
    """The call that made the stored run: both arms are finished, so none is started."""
    manifest = json.loads((run_folder / "manifest.json").read_text())
    arguments = manifest["arguments"]
    tasks = ",".join(arguments["tasks"])
    return ["compare", arguments["model"], "--lm", arguments["lm"], "--tasks", tasks, "--output", run_folder, *more]


@pytest.fixture
def same_stack(run_folder, monkeypatch):
    """Make the stored arms' fingerprints those of today's versions and of the model beside them."""
    from sage_eval.runs import manifest

    monkeypatch.chdir(ROOT)
    spec = json.loads((run_folder / "arms/baseline/arm.json").read_text())["spec"]
    monkeypatch.setattr(manifest, "versions", lambda: spec["stack"])
    monkeypatch.setattr(manifest, "find_model", Path)
    described = {"name": "m", "sha256": spec["model_hash"], "bytes": 0, "files": {}}
    monkeypatch.setattr(manifest, "describe_model", lambda *_: described)
    return run_folder


@pytest.mark.parametrize(("minimum", "expected"), [("tiny_needle=0.5", 0), ("tiny_needle=0.99", 1)])
def test_the_gate_decides_the_exit_code(call, same_stack, minimum, expected):
    code, out, err = call(*tiny_compare(same_stack, "--min", minimum))
    assert code == expected, err
    assert ("**failed**" in out) == bool(expected)
    assert err.count("finished earlier, kept") == 2
    before, after = (json.loads((folder / "manifest.json").read_text()) for folder in (STORED, same_stack))
    assert {name for name in after if after[name] != before[name]} == {"command", "arguments", "given"}


def test_lm_eval_gets_its_arguments_untouched(call, monkeypatch):
    from sage_eval import lm_eval_hook

    seen = []
    monkeypatch.setattr(lm_eval_hook, "run_lm_eval", lambda argv: seen.append(list(argv)) or 3)
    arguments = ["--model", "sglang-sage", "--tasks", "wikitext", "--help"]
    assert call("lm-eval", *arguments)[0] == 3
    assert seen == [arguments]


def test_doctor_says_what_runs_and_why_not(call):
    code, out, _ = call("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    backends = {backend["name"]: backend for backend in found["backends"]}
    assert backends["torch_native"]["runs"]
    assert all(backend["why"] for backend in backends.values() if not backend["runs"])
    code, text, _ = call("doctor")
    assert code == 0
    assert all(name in text for name in backends)


def test_doctor_recommends_what_a_benchmark_measured(call, tmp_path):
    code, out, _ = call("doctor", "--bench", ROOT / "results" / "kernels-h200" / "bench.jsonl")
    assert code == 0
    assert "recommended for NVIDIA H200, as measured there:\n  head_dim 128: sage_attn with" in out
    assert "variant=int8-fp16,min_tokens=8192; speed against fa3" in out
    old = tmp_path / "old.jsonl"
    published = (ROOT / "results" / "kernels-h200" / "bench.jsonl").read_text()
    old.write_text(published.replace('"source": "', '"source": "0'))
    assert "with other kernels than these" in call("doctor", "--bench", old)[1]
    code, _, err = call("doctor", "--bench", tmp_path / "none.jsonl")
    assert code == 2
    assert "CUDA GPU" in one_line(err)


@pytest.fixture(scope="session")
def wordy(tmp_path_factory):
    """A model folder with a word tokenizer, which knows an end of text or does not."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    def make(eos: bool) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "A": 2}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"eos_token": "</s>"} if eos else {}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special).save_pretrained(folder)
        config = LlamaConfig(
            vocab_size=3, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, architectures=["LlamaForCausalLM"], dtype="float32",
        )  # fmt: skip
        config.save_pretrained(folder)
        return folder

    return make


TINY = "tests/runs/tasks/tiny_{}.yaml"


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
    assert "attention_backend='sage_atn' is unknown; did you mean 'sage_attn'" in one_line(done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_port_in_use_is_named(wordy, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = in_a_process(wordy(eos=True), "--tasks", TINY.format("choice"), "--output", tmp_path / "run",
                            "--model-args", f"nccl_port={port}")  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert f"nccl_port={port} is in use" in one_line(done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_tokenizer_without_eos_is_one_line(wordy, tmp_path):
    done = in_a_process(wordy(eos=False), "--tasks", TINY.format("perplexity"), "--output", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "neither BOS nor EOS" in one_line(done.stderr.splitlines()[-1])


def test_prepare_copies_pins_and_says_how_to_go_on(call, wordy, tmp_path):
    source = tmp_path / "source"
    (source / "haystack").mkdir(parents=True)
    (source / "haystack" / "book.txt").write_text("Once upon a time.")
    model = wordy(eos=True)
    code, out, err = call(
        "prepare", "--data-dir", tmp_path / "data", "--datasets", "haystack", "--from", source, "--model", model
    )
    assert code == 0, err
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert f"{len(manifest['files'])} files" in out
    assert (tmp_path / "data" / "models" / model.name / "config.json").is_file()
    assert f"HF_HUB_OFFLINE=1 sage-eval compare {tmp_path / 'data' / 'models' / model.name}" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model or --shape"),
        (["MODEL", "--shape", "llama-3.1-8b"], "a model or --shape"),
        (["--shape", "llama-9b"], "known: llama-3.1-8b"),
        (["reference_model", "--arms", "triton:variant=exact"], "setting of sage_attn"),
        (["reference_model", "--lengths", "1k"], "whole numbers"),
        (["reference_model", "--model-args", "dtype"], "name=value"),
    ],
)
@pytest.mark.parametrize("command", ["serving", "memory"])
def test_a_bench_that_cannot_be_is_refused_before_an_engine_starts(call, tmp_path, command, arguments, message):
    code, out, err = call("bench", command, *arguments, "--output", tmp_path / "bench")
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "bench" / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model or --shape"),
        (["--shape", "llama-9b"], "known: llama-3.1-8b"),
        (["reference_model", "--arms", "triton:variant=exact"], "setting of sage_attn"),
        (["reference_model", "--arms", "fa3", "--baseline", "triton"], "none of the arms"),
        (["reference_model", "--rates", "1,fast"], "numbers separated by commas"),
        (["reference_model", "--rates", "0,inf"], "over 0"),
        (["reference_model", "--model-args", "dtype"], "name=value"),
    ],
)
def test_a_rate_curve_that_cannot_be_is_refused_before_a_server_starts(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    code, out, err = call("bench", "rate", *arguments, "--output", tmp_path / "rate")
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "rate" / "logs").exists()
