"""An arm's process for `serving`: runs, profiles, and the scheduler's memory.

Time is `time.perf_counter` around SGLang's `Engine` as a user of it in Python sees it: handing over the token ids,
scheduling, computing, and the reply's way back.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sage_eval.arms.engine import EngineHost
from sage_eval.engine.arm import Arm
from sage_eval.engine.local import LocalEngine
from sage_eval.engine.requests import Payload
from sage_eval.engine.scheduler_memory import SWITCH
from sage_eval.engine.scheduler_profile import EAGER, SERVED
from sage_eval.errors import DataError, EngineError
from sage_eval.measure.serving.profile import TOLERATED, Kind, Trace, learn, read, times, unplaced
from sage_eval.measure.serving.summary import Profile


class ServingWorker(EngineHost):
    """One engine, whose scheduler counts its memory."""

    def __init__(self, model: str, arguments: dict[str, Any]) -> None:
        os.environ[SWITCH] = "1"
        super().__init__(model, arguments)

    def run(self, **command: Any) -> float:
        """See `run`."""
        return run(self.arm, command)

    def profile(self, kind: Kind, **command: Any) -> dict[str, Any]:
        """Fields of a `rows.Profile` of one run."""
        assert isinstance(self.arm.transport, LocalEngine)
        return profile(self.arm.transport, kind, lambda: run(self.arm, command)).model_dump()


def run(arm: Arm, command: dict[str, Any]) -> float:
    """Seconds of one prefill, of one decode step, or of a whole mix, the prompts being made beforehand."""
    random = np.random.default_rng(command["seed"])
    mix = command.get("mix") or [(command["length"], command["new_tokens"])] * command["requests"]
    payloads: list[Payload] = [
        {
            "input_ids": random.integers(0, command["vocabulary"], length).tolist(),
            "sampling_params": {"max_new_tokens": new, "temperature": 0.0, "ignore_eos": True},
        }
        for length, new in mix
    ]
    if "mix" in command or command["new_tokens"] == 1:
        start = time.perf_counter()
        for _ in arm.transport.stream(payloads):
            pass
        return time.perf_counter() - start
    return _step(arm, payloads, command["new_tokens"])


def _step(arm: Arm, payloads: list[Payload], steps: int) -> float:
    """Seconds from token to token, from the last sequence's first to the last of all."""
    # Only the first and the last token are sent as they come: the engine is not slowed down by telling of each.
    for payload in payloads:
        payload["sampling_params"]["stream_interval"] = steps
        payload["stream"] = True
    arrivals: list[list[float]] = [reply["arrivals"] for _, reply in arm.transport.stream(payloads)]
    if any(len(times) < 2 for times in arrivals):
        raise EngineError(f"SGLang sent {steps} tokens in one piece, so a step cannot be timed: take more decode steps")
    first, last = (max(times[place] for times in arrivals) for place in (0, -1))
    return (last - first) / (steps - 1)


def profile(engine: LocalEngine, kind: Kind, run: Callable[[], object]) -> Profile:
    """Of one `run`; its `error` says where the trace tells nothing. `EngineError` where the engine failed.

    Where the device replayed graphs, a second run without them shows which kernels belong to which layers.
    """
    try:
        served = _traced(engine, SERVED, run)
        replayed = unplaced(served, kind) > TOLERATED
        return times(served, kind, learn(_traced(engine, EAGER, run), kind) if replayed else None)
    except DataError as error:
        return Profile(error=str(error))


def _traced(engine: LocalEngine, label: str, run: Callable[[], object]) -> Trace:
    with tempfile.TemporaryDirectory(prefix="sage-eval-trace-") as folder:
        with engine.profiled(Path(folder), label):
            run()
        return read(Path(folder), label, gpu=engine.info()["device"] != "cpu")
