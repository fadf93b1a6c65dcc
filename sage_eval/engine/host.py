"""Keeps what SGLang changes in the process that opens an engine from reaching that process's other work.

Constructing an engine replaces the root logger's handlers and level, draws from the global random generators (lm-eval
seeds them first and draws its samples from them afterwards) and needs environment variables for its children.
"""

import logging
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil


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
        try:
            if not any("resource_tracker" in part for part in child.cmdline()):
                found.add(child)
        except psutil.Error:
            continue
    return found


def alive(process: psutil.Process) -> bool:
    """Whether `process` still runs; one that ended and was not waited for yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def kill(processes: set[psutil.Process], timeout: float = 60) -> None:
    """Kill `processes` with all their descendants and wait until they are gone (and their GPU memory with them)."""
    doomed = set(processes)
    for process in processes:
        try:
            doomed.update(process.children(recursive=True))
        except psutil.Error:
            continue
    for process in doomed:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(doomed, timeout=timeout)
