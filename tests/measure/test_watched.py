"""The record of a measurement is held by one command; who watches sees a command that was killed, and its tables."""

import subprocess
import sys

import pytest

from sage_eval.cli import main
from sage_eval.errors import UsageError
from sage_eval.measure.base import at_work
from sage_eval.measure.serving.instrument import Serving
from sage_eval.report.watch import look, parts
from sage_eval.store import record as records
from tests.report.measured import put


@pytest.fixture
def held(tmp_path):
    """A process that holds the stored record of serving, its folder and the record."""
    path = put(tmp_path, "serving.json") / "serving.json"
    code = (
        "import sys, time; from pathlib import Path; from sage_eval.measure.base import at_work\n"
        "from sage_eval.measure.serving.instrument import Serving; from sage_eval.store import record as records\n"
        "path = Path(sys.argv[1]); record = records.read(Serving.row, path, 'serving')\n"
        "with at_work(path, [*record.arms], ['prefill/1', 'prefill/2'], record):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, tmp_path, records.read(Serving.row, path, "serving")
    process.kill()
    process.wait()


def test_a_second_command_is_refused_and_may_begin_once_the_first_was_killed(held):
    process, folder, record = held
    with pytest.raises(UsageError, match=f"in use by process {process.pid} on "), at_work(
        folder / "serving.json", [], [], record
    ):  # fmt: skip
        pass
    with at_work(folder / "rate.json", [], [], record):
        pass  # another measurement of the same folder
    process.kill()
    process.wait()
    with at_work(folder / "serving.json", [], [], record):
        pass
    assert not [path for path in folder.iterdir() if path.name.endswith(".lock")]


def test_a_killed_measurement_says_so(held):
    process, folder, record = held
    [found] = look(folder)
    assert (found.state, {arm.name for arm in found.arms}) == ("running", set(record.arms))
    assert {arm.of for arm in found.arms} == {2}
    process.kill()
    process.wait()
    [found] = look(folder)
    assert found.state == "stopped"
    assert f"process {process.pid}" in parts(found)[0]
    assert main(["watch", str(folder)]) == 1


def test_a_finished_measurement_shows_its_tables(tmp_path, capsys):
    put(tmp_path, "serving.json")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(["watch", str(tmp_path)]) == 0
    assert "finished" in (page := capsys.readouterr().out)
    assert page.count("| ---") > 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_record_that_is_cut_is_named_and_no_error(tmp_path):
    path = put(tmp_path, "serving.json") / "serving.json"
    path.write_bytes(path.read_bytes()[:500])
    [found] = look(tmp_path)
    assert "serving.json" in found.notes[0]
