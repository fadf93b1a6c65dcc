"""`sage-eval watch` on the folders of real runs: at work, killed, gone on with, finished; and on damaged ones."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sage_eval.cli import main
from sage_eval.errors import UsageError
from sage_eval.report.watch import look, parts, plain
from sage_eval.store.lock import FILE, lock

TASKS = "tests/compare/tasks/tiny_choice.yaml,tests/compare/tasks/tiny_perplexity.yaml"
engine = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


def states(watched):
    return [arm.state for arm in watched.arms]


def stamps(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def watch(folder, *more):
    """The command as a script sees it: exit code and stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "sage_eval.cli", "watch", str(folder), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


class TestComparison:
    """One run of SGLang's engine: killed in its candidate, gone on with to its end."""

    pytestmark = engine

    @pytest.fixture(scope="class")
    def run(self, reference_model, tmp_path_factory):
        """By moment what was seen, and a copy of the folder then."""
        output, seen = tmp_path_factory.mktemp("runs") / "run", {}
        command = [sys.executable, "-m", "sage_eval.cli", "compare", str(reference_model), "--tasks", TASKS,
                   "--output", str(output), "--model-args", "max_length=1024,dtype=float32",
                   "--no-calibrate"]  # fmt: skip

        def start():
            return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True,
                                    env=os.environ | {"HF_HUB_OFFLINE": "1"})  # fmt: skip

        def until(process, what):
            deadline = time.monotonic() + 900
            while True:
                assert process.poll() is None, output
                assert time.monotonic() < deadline
                if (output / FILE).exists() and what(found := look(output)[0]):
                    return found
                time.sleep(0.2)

        process = start()
        seen["starting"] = until(process, lambda found: True)
        seen["candidate"] = until(
            process, lambda found: states(found)[1:] == ["running"] and (found.arms[1].done or 0) >= 80
        )
        # It stands still while another process looks, which may take longer than what is left of the run.
        family = psutil.Process(process.pid).children(recursive=True)
        for each in (process, *family):
            os.kill(each.pid, signal.SIGSTOP)
        seen["code"], seen["page"] = watch(output)
        process.kill()
        for each in family:
            with contextlib.suppress(ProcessLookupError):  # the first to wake end the others
                os.kill(each.pid, signal.SIGCONT)
        process.wait()
        seen["killed"], seen["folder"] = look(output)[0], output.with_name("killed")
        shutil.copytree(output, seen["folder"])
        process = start()
        seen["again"] = until(process, lambda found: found.by not in ("", seen["killed"].by, "a command"))
        assert process.wait(900) == 0
        seen["whole"] = output
        return seen

    def test_a_run_at_work_shows_each_arm_its_items_and_paired_scores(self, run):
        found = run["candidate"]
        assert (found.what, found.state, states(found)) == ("Comparison", "running", ["finished", "running"])
        baseline, candidate = found.arms
        assert (baseline.done, baseline.of, candidate.of) == (120, 120, 120)
        assert 0 < candidate.done < 120
        assert found.left > 0
        rows = {(row.name, row.metric, row.arm): row for row in found.scores}
        choice = rows["tiny_choice", "acc", "candidate"]
        assert choice.score.n == choice.difference.n == 80
        assert choice.score.low < choice.score.value < choice.score.high
        assert rows["tiny_choice", "acc", "baseline"].difference is None
        assert "No verdict follows" in run["page"]
        assert run["code"] == 0

    def test_an_engine_that_starts_has_no_rate_yet(self, run):
        assert run["starting"].state in ("starting", "running")
        assert all(arm.rate is None for arm in run["starting"].arms)

    def test_a_killed_run_says_so_and_ends_with_1(self, run):
        found = run["killed"]
        assert (found.state, states(found)) == ("stopped", ["finished", "stopped"])
        code, page = watch(run["folder"])  # as it would be seen after the process has long been gone
        assert code == 1
        assert "was killed" in page
        assert "Repeat the command to go on" in page

    def test_a_killed_run_is_seen_as_such_on_its_own_machine_only(self, run, tmp_path):
        folder = Path(shutil.copytree(run["folder"], tmp_path / "elsewhere"))
        (folder / FILE).write_text("process 1 on another-machine\n")
        [found] = look(folder)
        assert found.state == "running"
        for path in folder.rglob("*"):
            os.utime(path, (time.time() - 7200,) * 2)
        assert "only its own machine can tell" in parts(look(folder)[0])[0]

    def test_a_run_that_is_gone_on_with_is_at_work_again(self, run):
        assert run["again"].state in ("starting", "running")
        assert states(run["again"])[0] == "finished"
        assert states(run["again"])[1] in ("waiting", "starting", "running")

    def test_a_finished_run_shows_its_verdict_and_ends(self, run, capsys):
        before = stamps(run["whole"])
        assert main(["watch", str(run["whole"])]) == 0
        page = capsys.readouterr().out
        assert "Comparison: finished" in page
        assert "flips −/+" in page
        assert stamps(run["whole"]) == before
        assert not list(run["whole"].rglob("running.jsonl"))

    def test_json_has_the_numbers_of_the_table(self, run, capsys):
        assert main(["watch", str(run["folder"]), "--json"]) == 1
        [found] = json.loads(capsys.readouterr().out)["runs"]
        assert found["arms"][0]["done"] == 120
        assert {row["arm"] for row in found["scores"]} == {"baseline", "candidate"}
        assert all(row["n"] <= 80 for row in found["scores"])

    def test_no_cut_file_of_a_run_is_an_error(self, run, tmp_path):
        for place, path in enumerate(path for path in sorted(run["folder"].rglob("*")) if path.is_file()):
            folder = Path(shutil.copytree(run["folder"], tmp_path / str(place)))
            file = folder / path.relative_to(run["folder"])
            for size in (file.stat().st_size // 2, 1, 0):
                os.truncate(file, min(size, file.stat().st_size))
                [found] = look(folder)
                assert [arm.name for arm in found.arms] == ["baseline", "candidate"], file
                assert parts(found)
                assert plain(found)
            file.unlink()
            assert look(folder), file


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="holds no run"):
            look(folder)


def test_a_command_that_has_just_taken_the_folder_is_starting(tmp_path):
    with lock(tmp_path / "run"):
        [found] = look(tmp_path / "run")
        assert (found.state, found.by.split()[1]) == ("starting", str(os.getpid()))
    with pytest.raises(UsageError):
        look(tmp_path / "run")


def test_watching_takes_no_lock(tmp_path):
    """While somebody looks all the time, a command can begin."""
    code = "import sys; from pathlib import Path; from sage_eval.report.watch import look\n"
    code += "while True: look(Path(sys.argv[1]))"
    with lock(tmp_path):
        watcher = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    (tmp_path / "arms").mkdir()
    try:
        for _ in range(200):
            with lock(tmp_path):
                pass
        assert watcher.poll() is None
    finally:
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
