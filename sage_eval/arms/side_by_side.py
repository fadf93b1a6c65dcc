"""Several arms at the same time: a thread for each, and the GPUs shared out among them."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import cycle, islice
from queue import SimpleQueue

Job = Callable[[str | None, Callable[[], None]], None]
"""Runs one arm on a device, None for all of them. It calls its second argument often, which raises once it must end."""


class StoppedError(Exception):
    """Raised in a job that must end because another one failed, or by Ctrl-C."""


def run_jobs(jobs: Sequence[Job], parallel: int, devices: Sequence[str | None] = (None,)) -> None:
    """Run `jobs` in their order, `parallel` at a time. The first failure ends the others at once and is raised.

    Ctrl-C ends all of them.
    """
    stop = threading.Event()
    slots: SimpleQueue[str | None] = SimpleQueue()
    for device in islice(cycle(devices if parallel > 1 else [None]), parallel):
        slots.put(device)

    def check() -> None:
        if stop.is_set():
            raise StoppedError

    def run(job: Job) -> None:
        device = slots.get()
        try:
            check()
            job(device, check)
        except StoppedError:
            pass
        except Exception:
            stop.set()  # not where it is waited for: by then this thread would have begun the next job
            raise
        finally:
            slots.put(device)

    with ThreadPoolExecutor(parallel, thread_name_prefix="arm") as pool:
        try:
            for future in as_completed([pool.submit(run, job) for job in jobs]):
                future.result()
        except BaseException:  # Ctrl-C comes to this thread alone
            stop.set()
            raise


def visible_devices(count: int) -> Sequence[str | None]:
    """The GPUs to share out, by the names that `CUDA_VISIBLE_DEVICES` knows; `[None]` where there is no choice.

    `count` is how many the machine has.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = given.split(",") if given is not None else [str(index) for index in range(count)]
    return devices if len(devices) > 1 else [None]
