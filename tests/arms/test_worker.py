"""A worker's answers, errors, silence and death."""

import time

import pytest

from sage_eval.arms.worker import Worker
from sage_eval.errors import DataError, EngineError, PrerequisiteError

TARGET = "tests.arms.obeying:Obeying"


@pytest.fixture
def worker(tmp_path):
    with Worker("fa3", TARGET, {"model": "m"}, tmp_path / "logs") as made:
        yield made


def test_worker_is_ready_with_its_introduction_and_answers_each_call(worker):
    reply, seconds = worker.ready()
    assert reply == {"engine": {"model": "m"}}
    assert seconds > 0
    assert worker.ask("echo", size=3, within=60.0) == {"size": 3}
    assert worker.ask("echo", size=4) == {"size": 4}


def test_folder_that_cannot_be_written_is_refused_before_a_process_starts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrerequisiteError, match=r"file.* cannot be written"):
        Worker("fa3", TARGET, {}, tmp_path / "file" / "logs")


def test_project_error_keeps_its_class_and_the_worker_goes_on(worker):
    worker.ready()
    with pytest.raises(DataError, match=r"arm fa3: no such thing \(its log: .*fa3\.log\)"):
        worker.ask("err")
    assert worker.ask("echo") == {}


def test_other_error_is_the_engines_with_its_traceback_in_the_log(worker):
    worker.ready()
    with pytest.raises(EngineError, match=r"arm fa3: KeyError: 'layers.0'"):
        worker.ask("crash")
    assert "in crash" in worker.log.read_text()


def test_object_that_cannot_be_made_is_said_by_ready(tmp_path):
    with Worker("fa3", TARGET, {"refuse": "no GPU"}, tmp_path) as made, pytest.raises(EngineError, match="no GPU"):
        made.ready()


def test_death_is_an_error_with_its_last_words(worker):
    worker.ready()
    with pytest.raises(EngineError, match="arm fa3 ended: out of memory"):
        worker.ask("die")


def test_worker_that_hangs_is_given_up_and_can_be_closed(worker):
    worker.ready()
    begun, seen = time.monotonic(), []
    with pytest.raises(EngineError, match=r"fa3 did not answer 'hang' within 0.6 s .*repeat the command"):
        worker.ask("hang", within=0.6, watch=seen.append)
    assert seen[-1] == "still at it"
    worker.close()
    assert time.monotonic() - begun < 60
