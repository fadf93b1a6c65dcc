"""What is said when SGLang refuses something: a manager that fails, in place of an engine."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from sage_eval.engine.local import LocalEngine
from sage_eval.engine.post_mortem import Watch
from sage_eval.errors import EngineError


@pytest.fixture
def engine(tmp_path):
    """A `LocalEngine` whose every request fails with "no"."""

    async def fail(*_, **__):
        raise RuntimeError("no")

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    names = ("get_internal_state", "flush_cache", "start_profile", "stop_profile")
    made = LocalEngine.__new__(LocalEngine)
    made.loop = loop
    made._engine = SimpleNamespace(tokenizer_manager=SimpleNamespace(**dict.fromkeys(names, fail)))
    (tmp_path / "log").touch()
    made._watch = Watch(tmp_path / "log")
    yield made
    made._watch.end()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda engine: engine.info(), "the engine did not tell its state: no"),
        (lambda engine: engine.flush_cache(), "SGLang did not empty its prefix cache: no"),
        (lambda engine: engine.profiled("folder", "label").__enter__(), "the profiler did not start: no"),
    ],
)
def test_each_failure_is_called_by_its_name(engine, action, message):
    with pytest.raises(EngineError) as caught:
        action(engine)
    assert str(caught.value) == message
