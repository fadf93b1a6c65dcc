"""Faults that a run folder must survive: a full disk, files that are cut, two commands at once, a clock that jumps.

What is asked each time: one line that names the cause, and nothing lost that was finished.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sage_eval.cli import main
from sage_eval.compare import run as runner
from sage_eval.compare.run import compare
from sage_eval.compare.spec import arms
from sage_eval.compare.worker import answer
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.report import pages
from sage_eval.report.comparison import report
from sage_eval.store import load
from sage_eval.store.files import read_json
from sage_eval.store.provenance import versions
from tests.compare.test_compare import start
from tests.compare.values import in_this_process

TASKS = ("tests/compare/tasks/tiny_choice.yaml", "tests/compare/tasks/tiny_perplexity.yaml")


@pytest.fixture(scope="module")
def config(tiny):
    """Of a run that leaves every kind of file."""
    return lambda output: tiny(lm="tests.compare.lms:TextLM", tasks=TASKS, top_logprobs=8, output=output)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """That run, with its report. Read only."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_job", in_this_process)
        run = compare(config(output), argv=["compare", "MODEL"])
    pages.write(report(run), output)
    return run


FILES = (
    "manifest.json", "comparison.json", "fidelity.json", "divergence.parquet", "prompts.jsonl.zst", "report.md",
    "arms/baseline/arm.json", "arms/baseline/spec.json", "arms/baseline/samples.parquet",
    "arms/baseline/results.json.zst", "arms/baseline/topk.npz", "arms/candidate/samples.parquet",
)  # fmt: skip
"""Of a candidate's files one: they are read as the baseline's. Nothing reads a log or a page."""


def one_line(error):
    lines = [line for line in error.splitlines() if line.startswith("sage-eval: ")]
    assert "Traceback" not in error
    assert len(lines) <= 1, error
    return "".join(lines)


class TestCutFiles:
    @pytest.fixture(params=FILES)
    def cut(self, request, whole, tmp_path):
        """The folder and the name of the file that is cut in the middle."""
        folder = Path(shutil.copytree(whole.folder, tmp_path / "run"))
        path = folder / request.param
        os.truncate(path, path.stat().st_size // 2)
        return folder, request.param

    def test_the_list_is_complete(self, whole):
        there = [path.relative_to(whole.folder) for path in whole.folder.rglob("*") if path.is_file()]
        names = {str(path).replace("candidate", "baseline") for path in there if path.suffix not in (".svg", ".html")}
        assert names == {name.replace("candidate", "baseline") for name in FILES}

    def test_report_names_it_or_makes_it_anew(self, cut, whole, capsys):
        folder, name = cut
        code = main(["report", str(folder)])
        line = one_line(capsys.readouterr().err)
        if code:
            assert code == 2
            assert Path(name).name in line
        else:
            assert not line
            assert load(folder).comparison.pairs == whole.comparison.pairs

    def test_validate_names_it(self, cut, capsys):
        folder, name = cut
        code = main(["validate", str(folder)])
        printed = capsys.readouterr()
        assert not one_line(printed.err)
        assert code == 1
        assert Path(name).name in printed.out

    @pytest.mark.slow
    def test_the_same_command_mends_it(self, cut, whole, config, monkeypatch):
        folder, _ = cut
        ran = []
        monkeypatch.setattr(runner, "_job", lambda spec, *more: ran.append(spec.name) or in_this_process(spec, *more))
        again = compare(config(folder), argv=["compare", "MODEL"])
        pages.write(report(again), folder)
        assert again.comparison.pairs == whole.comparison.pairs
        assert len(ran) <= 1
        assert main(["validate", str(folder)]) == 0


class TestFullDisk:
    @pytest.mark.slow
    @pytest.mark.parametrize("free", [0, 8, 24, 64])
    def test_a_run_says_so_in_one_line_and_goes_on_once_there_is_room(self, disk, config, whole, monkeypatch, free):
        small = disk(2048)
        output = small.folder / "run"
        monkeypatch.setattr(runner, "_job", in_this_process)
        small.fill(free)
        with pytest.raises(PrerequisiteError, match=r"No space left on device.*free some space") as error:
            compare(config(output), argv=["compare", "MODEL"])
        assert "\n" not in str(error.value)
        finished = [path.parent.name for path in output.glob("arms/*/arm.json") if read_json(path)]
        small.free()
        ran = []
        monkeypatch.setattr(runner, "_job", lambda spec, *more: ran.append(spec.name) or in_this_process(spec, *more))
        again = compare(config(output), argv=["compare", "MODEL"])
        assert not {*ran} & {*finished}
        assert again.comparison.pairs == whole.comparison.pairs

    @pytest.mark.slow
    @pytest.mark.parametrize("free", [0, 20])
    def test_the_command_with_its_processes_ends_with_one_line(self, disk, tiny, free):
        small = disk(1024)
        small.fill(free)
        command = [sys.executable, "-m", "sage_eval.cli", "compare", tiny().model, "--lm", "tests.compare.lms:HashLM",
                   "--tasks", ",".join(TASKS), "--no-calibrate", "--output", str(small.folder / "run")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "free some space" in one_line(done.stderr)
        small.free()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_second_command_is_refused_until_the_first_was_killed(half, model, tmp_path, tiny, monkeypatch):
    process, _ = start(half, model, tmp_path)
    config = tiny(output=half)
    with pytest.raises(UsageError, match=f"in use by process {process.pid} on {socket.gethostname()}: wait for it"):
        compare(config)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    monkeypatch.setattr(runner, "_job", in_this_process)
    assert compare(config, argv=["compare", "MODEL"]).comparison.pairs
    assert not (half / ".lock").exists()


def test_a_clock_that_jumps_back_gives_no_negative_times(config, tmp_path, monkeypatch):
    baseline, *_ = arms(config(tmp_path), "hash", versions())
    monkeypatch.setattr(time, "time", itertools.count(2_000_000_000, -100_000).__next__)
    answer(baseline, tmp_path)
    assert all(0 <= seconds < 600 for seconds in read_json(tmp_path / "arm.json")["seconds"].values())
