"""Keeps what SGLang changes in the process that opens an engine from reaching that process's other work.

Constructing an engine replaces the root logger's handlers and level, draws from the global random generators (lm-eval
seeds them first and draws its samples from them afterwards) and needs environment variables for its children.
"""

import logging
import multiprocessing
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from sage_eval.errors import UsageError

LOG = "SAGE_EVAL_ENGINE_LOG"
"""Environment variable of an engine's children: where they say of what they die."""


def refuse_in_child() -> None:
    """Raise `UsageError`, and say it to the parent, in a child that is still importing the script that started it.

    SGLang spawns its processes, and each imports the main script first: without a main guard it would open an engine
    of its own there.
    """
    if not getattr(multiprocessing.current_process(), "_inheriting", False):
        return
    error = UsageError(
        'the script that opens an engine needs a main guard: put what it does under `if __name__ == "__main__":`, as '
        "SGLang's processes import the script when they start"
    )
    if log := os.environ.get(LOG):
        with Path(log).open("a") as file:
            file.write(f"UsageError: {error}\n")
    raise error


@contextmanager
def undisturbed(environment: Mapping[str, str]) -> Iterator[None]:
    """Inside: `environment` is set. Afterwards: environment, logging and random generators are as they were."""
    import numpy as np
    import torch

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    previous = {name: os.environ.get(name) for name in environment}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        root.handlers[:] = handlers
        root.setLevel(level)


def children() -> set[psutil.Process]:
    """Child processes of this one, multiprocessing's own helper aside."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if not any("resource_tracker" in part for part in child.cmdline()):
                found.add(child)
    return found


def alive(process: psutil.Process) -> bool:
    """Whether `process` still runs; one that ended and was not waited for yet does not."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def kill(processes: set[psutil.Process]) -> None:
    """Kill `processes` with all their descendants and wait until they are gone (and their GPU memory with them)."""
    doomed = set(processes)
    for process in processes:
        with suppress(psutil.Error):
            doomed.update(process.children(recursive=True))
    for process in doomed:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(doomed, timeout=60)
