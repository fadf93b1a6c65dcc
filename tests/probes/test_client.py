"""A worker's answers, errors, silence and death."""

import time

import pytest

from sage_eval.errors import DataError, EngineError, PrerequisiteError
from sage_eval.probes.client import Worker


@pytest.fixture
def worker(tmp_path):
    made = Worker("fa3", {"model": "m"}, tmp_path / "logs", "tests.probes.obeying")
    yield made
    made.close()


def test_it_is_ready_once_it_answers_and_each_command_has_its_answer(worker):
    reply, seconds = worker.ready()
    assert reply == {"opened": {"model": "m"}}
    assert seconds > 0
    assert worker.ask("run", size=3, within=60.0) == {"do": "run", "size": 3}
    assert worker.ask("run", size=4) == {"do": "run", "size": 4}


def test_a_folder_that_cannot_be_is_said_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrerequisiteError, match=r"file.* cannot be written"):
        Worker("fa3", {}, tmp_path / "file" / "logs", "tests.probes.obeying")


def test_an_error_that_it_reports_is_raised_as_what_it_is(worker):
    worker.ready()
    with pytest.raises(DataError, match=r"arm fa3: no such thing \(its log: .*fa3\.log\)"):
        worker.ask("err")


def test_its_death_is_an_error_with_its_last_words(worker):
    worker.ready()
    with pytest.raises(EngineError, match="arm fa3 ended: out of memory"):
        worker.ask("die")


def test_one_that_hangs_is_given_up_and_can_be_closed(worker):
    worker.ready()
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"fa3 did not answer 'hang' within 0.5 s .*repeat the command"):
        worker.ask("hang", within=0.5)
    worker.close()
    assert time.monotonic() - begun < 60
