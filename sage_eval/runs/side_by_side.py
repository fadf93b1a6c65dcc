"""Running several arms at the same time, each in its own process (`child`)."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from sage_eval.runs import manifest
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
    """Run `specs` in their order, `parallel` at a time, into `target`'s arms; several GPUs are shared out among them.

    Where one fails, no further one is started, those that run are finished, and then its error is raised. Ctrl-C ends
    all processes.
    """
    stop = threading.Event()
    slots: SimpleQueue[str | None] = SimpleQueue()
    for device in islice(cycle(_devices(specs) if parallel > 1 else [None]), parallel):
        slots.put(device)

    def run(spec: ArmSpec) -> None:
        folder = target / "arms" / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        with display.arm(spec.name, spec.backend or "SGLang's choice") as show:

            def progress(line: str) -> None:
                if stop.is_set():
                    raise _StoppedError
                show(line)

            device = slots.get()
            try:
                run_arm(spec, folder, progress, device)
            finally:
                slots.put(device)

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


def _devices(specs: Sequence[ArmSpec]) -> Sequence[str | None]:
    """The GPUs to be shared out, by the names that `CUDA_VISIBLE_DEVICES` knows; `[None]` where there is no choice."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = given.split(",") if given is not None else [str(index) for index in range(len(manifest.devices()))]
    wide = any(int(spec.model_args.get(size) or 1) > 1 for spec in specs for size in ("tp_size", "dp_size", "pp_size"))
    return devices if len(devices) > 1 and not wide else [None]
