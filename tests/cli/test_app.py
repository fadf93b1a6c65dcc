"""The command line: exit codes, what goes to stdout and to stderr, and that errors are one line."""

import subprocess
import sys

import pytest

from sage_eval import __version__
from tests.cli.values import ROOT, one_line


def test_help_loads_nothing_heavy():
    code = (
        "import sys, sage_eval.cli; sage_eval.cli.main(['compare', '--help']); "
        "heavy = {'torch', 'sglang', 'lm_eval', 'transformers', 'scipy', 'numpy', 'matplotlib', 'jinja2'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "command",
    [
        *(
            "compare",
            "report",
            "validate",
            "leaderboard",
            "prepare",
            "doctor",
            "calibrate",
            "diagnose",
            "balance",
            "stress",
            "quick",
            "bench",
            "probe",
        ),
        "version",
    ],
)
def test_every_command_has_help(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert command in out


def test_version(call):
    assert call("version") == (0, f"{__version__}\n", "")


RETRIEVAL = ["compare", str(ROOT / "reference_model"), "--tasks", "sage_retrieval_kv", "--dry-run", "--task-args"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["report"], "Missing argument 'run'"),
        (["compare", "m", "--limt", "3"], "No such option: --limt"),
        (["compare", "m", "--limit", "x"], "'--limit': Input should be a valid"),
        (["compare"], "model is missing"),
        (["compare", "m", "--limit", "0"], "limit=0"),
        (["compare", "m", "--mode", "fast"], "mode='fast'"),
        (["compare", "m", "--variant", "int2"], "variant='int2'"),
        (["compare", "m", "--min", "sage_mmlu"], "not of the form name=value"),
        (["compare", "m", "--arms", "repaet"], "unknown arm 'repaet'; did you mean repeat"),
        (["compare", "m", "--fresh", "--resume"], "--fresh runs all arms again and --resume keeps"),
        (["compare", "./nowhere"], "model ./nowhere is not a folder"),
        (["compare", "m", "--config", "nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
        ([*RETRIEVAL, "lengths=[abc"], "'lengths=[abc' cannot be read"),
        ([*RETRIEVAL, "lengts=[512]"], "--task-args lengts=…; did you mean lengths?; valid: lengths, depths,"),
        (["bench", "scoring", "reference_model", "--task-args", "lengths=[abc"], "'lengths=[abc' cannot be read"),
        (["probe", "determinism", "m"], "--arms is missing"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_2(call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in one_line(err.splitlines()[-1])


@pytest.mark.parametrize(("redirection", "message"), [
    ("> /dev/full", "stdout is full: the rest of the result is not printed"),
    (">&-", "stdout is closed, and results are printed there"),
    ("| true", "stdout is closed: the rest of the result is not printed"),
])  # fmt: skip
def test_stdout_that_takes_nothing_is_one_line_and_2(redirection, message):
    """The pipe's reader is gone before the command writes."""
    code = "import sys, time, sage_eval.cli; time.sleep(1); sys.exit(sage_eval.cli.main(['version']))"
    command = f"set -o pipefail; '{sys.executable}' -c \"{code}\" {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert message in one_line(done.stderr)


def test_lm_eval_gets_its_arguments_untouched(call, monkeypatch):
    from sage_eval import lm_eval_hook

    seen = []
    monkeypatch.setattr(lm_eval_hook, "run_lm_eval", lambda argv: seen.append(list(argv)) or 3)
    arguments = ["--model", "sglang-sage", "--tasks", "wikitext", "--help"]
    assert call("lm-eval", *arguments)[0] == 3
    assert seen == [arguments]
