"""Running several arms at the same time, each in its own process (`child`)."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sage_eval.runs.child import run_arm
from sage_eval.runs.spec import ArmSpec


class Display(Protocol):
    """Where progress goes: a terminal, a log, or nowhere. Called from several threads."""

    def arm(self, name: str, backend: str) -> AbstractContextManager[Callable[[str], None]]:
        """Around one arm; yields what takes its current line."""

    def kept(self, name: str, backend: str) -> None:
        """An arm of an earlier call was taken over."""


class _StoppedError(Exception):
    """Raised in an arm's thread, so that it ends its processes."""


def run_arms(specs: Sequence[ArmSpec], target: Path, display: Display, parallel: int) -> None:
    """Run `specs` in their order, `parallel` at a time, into `target`'s arms.

    Where one fails, no further one is started, those that run are finished, and then its error is raised. Ctrl-C ends
    all processes.
    """
    stop = threading.Event()

    def run(spec: ArmSpec) -> None:
        folder = target / "arms" / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        with display.arm(spec.name, spec.backend or "SGLang's choice") as show:

            def progress(line: str) -> None:
                if stop.is_set():
                    raise _StoppedError
                show(line)

            run_arm(spec, folder, progress)

    with ThreadPoolExecutor(parallel, thread_name_prefix="arm") as pool:
        futures = [pool.submit(run, spec) for spec in specs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                future.cancel()  # those not yet started, if one has failed
            wait(futures)
        except BaseException:  # Ctrl-C comes to this thread alone
            for future in futures:
                future.cancel()
            stop.set()
            raise
    for future in futures:
        if not future.cancelled():
            future.result()
