"""SGLang's engine inside this process.

The engine lives on a thread of its own. There SGLang installs no signal handlers (on the main thread a dying scheduler
makes it kill the whole process), requests stream back as they finish, and Ctrl-C reaches the caller, not SGLang.
"""

import atexit
import contextlib
import functools
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sage_eval.engine import host
from sage_eval.engine.post_mortem import Watch
from sage_eval.engine.requests import Payload, Reply
from sage_eval.engine.scheduler import run_scheduler
from sage_eval.engine.transport import Transport, cancel_others, checked
from sage_eval.errors import EngineError
from sage_eval.seams import resolved_arguments

_IDLE_SECONDS = 60


class LocalEngine(Transport):
    """An SGLang `Engine` and its child processes. Arguments: `ServerArgs` keywords, environment of the children.

    Raises `EngineError` with the scheduler's own last error if the engine does not come up.
    """

    def __init__(self, server_args: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        host.refuse_in_child()
        with tempfile.NamedTemporaryFile(prefix="sage-eval-engine-", suffix=".log", delete=False) as log:
            self._log = Path(log.name)
        self._engine: Any = None
        before = host.children()
        self._watch = Watch(self._log)
        started: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(dict(server_args), started), name="sglang-engine", daemon=True
        )
        try:
            with host.undisturbed({**(environment or {}), host.LOG: str(self._log)}):
                self._thread.start()
                self._engine = self._watch.wait(started, "the engine did not start")
                self.loop = self._engine.loop
        except BaseException:
            self._watch.children = host.children() - before
            self.close()
            raise
        self._watch.children = host.children() - before
        atexit.register(self.close)  # after multiprocessing's own, which would wait for the children for ever

    def info(self) -> dict[str, Any]:
        from sglang import __version__
        from sglang.srt.utils.msgspec_utils import msgspec_to_builtins

        manager = self._engine.tokenizer_manager
        states = self._watch.wait(self.submit(manager.get_internal_state()), "the engine did not tell its state")
        info: dict[str, Any] = msgspec_to_builtins(
            {
                **resolved_arguments(manager),
                **self._engine._scheduler_init_result.scheduler_infos[0],
                "internal_states": states,
            }
        )
        return info | {"version": __version__}

    def flush_cache(self) -> None:
        # The scheduler may still run a step for requests whose answers are here, and would refuse: it is told to wait.
        flushed = self.submit(self._engine.tokenizer_manager.flush_cache(timeout_s=_IDLE_SECONDS))
        reply = self._watch.wait(flushed, "SGLang did not empty its prefix cache")
        if not reply.success:
            raise EngineError(f"SGLang did not empty its prefix cache ({reply.message or 'requests are running'})")

    @contextlib.contextmanager
    def profiled(self, folder: Path, label: str) -> Iterator[None]:
        """Inside: SGLang's own profiler runs in the scheduler. Afterwards `folder` has its trace, `label`-….json.gz."""
        from sglang.srt.managers.io_struct import ProfileReq

        manager = self._engine.tokenizer_manager
        request = ProfileReq(
            output_dir=str(folder), profile_prefix=label, activities=["CPU", "GPU"],
            with_stack=False, record_shapes=False,
        )  # fmt: skip
        self._watch.wait(self.submit(manager.start_profile(request)), "the profiler did not start")
        try:
            yield
        finally:
            self._watch.wait(self.submit(manager.stop_profile()), "the profiler left no trace")

    def close(self) -> None:
        """Stop the engine and its processes, only its own. May be called twice."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        engine = self._engine
        if engine is not None:
            if engine.tokenizer_manager._subprocess_watchdog is not None:
                engine.tokenizer_manager._subprocess_watchdog.stop()
            if engine.send_to_rpc is not None:
                engine.send_to_rpc.close(linger=0)
            engine.loop.call_soon_threadsafe(engine.loop.stop)
            self._thread.join(timeout=10)
        host.kill(self._watch.children)
        self._watch.end()
        self._log.unlink(missing_ok=True)

    def _serve(self, server_args: dict[str, Any], started: "Future[Any]") -> None:
        try:
            from sglang.srt.entrypoints.engine import Engine

            class LoggedEngine(Engine):  # type: ignore[misc]
                run_scheduler_process_func = functools.partial(run_scheduler, str(self._log))

                def shutdown(self) -> None:
                    """Left to `LocalEngine.close`: SGLang's kills every child of this process, other engines' too."""

            engine = LoggedEngine(**server_args)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(engine)
        engine.loop.run_forever()
        engine.loop.run_until_complete(cancel_others())

    async def answer(self, payload: Payload) -> Reply:
        from sglang.srt.managers.io_struct import GenerateReqInput

        reply: Reply = {}
        arrivals = []
        try:
            # Not `Engine.async_generate`, which knows only some of the fields that a server's `/generate` takes.
            async for piece in self._engine.tokenizer_manager.generate_request(GenerateReqInput(**payload), None):
                reply = piece
                arrivals.append(time.perf_counter())
        except Exception as error:
            length = len(payload["input_ids"])
            raise EngineError(f"SGLang refused a prompt of {length} tokens: {error}") from error
        return checked(reply | ({"arrivals": arrivals} if payload.get("stream") else {}))

    def raise_if_dead(self) -> None:
        self._watch.raise_if_dead()
