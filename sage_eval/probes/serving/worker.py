"""One engine in a process of its own: reads a command a line on stdin, answers a line of JSON on stdout.

The first line is what to open; the answer says what came up. Time is `time.perf_counter` around SGLang's `Engine` as a
user of it in Python sees it: handing over the token ids, scheduling, computing, and the reply's way back.
"""

import os
import time
from typing import Any

import numpy as np

from sage_eval.engine import coverage
from sage_eval.engine.arm import Arm, open_arm
from sage_eval.engine.local import LocalEngine
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import Payload
from sage_eval.engine.scheduler_memory import KEY, SWITCH
from sage_eval.errors import EngineError, SageEvalError
from sage_eval.probes.orders import commands, private_stdout, say
from sage_eval.probes.serving.profile import profile
from sage_eval.probes.told import told


def main() -> None:
    """Open, obey, close. An error of this project is an answer; any other one ends the process, its log says why."""
    replies, orders = private_stdout(), commands()
    arm: Arm | None = None
    try:
        arm = _open(orders.get())
        say(replies, _introduction(arm))
        while (command := orders.get())["do"] != "close":
            say(replies, _obey(arm, command))
    except SageEvalError as error:
        say(replies, {"error": " ".join(str(error).split()), "type": type(error).__name__})
    finally:
        if arm:
            arm.close()


def _open(order: dict[str, Any]) -> Arm:
    os.environ[SWITCH] = "1"
    return open_arm(ArmOptions.from_arguments(order["model"], **order["arguments"]))


def _introduction(arm: Arm) -> dict[str, Any]:
    info = arm.info()
    return {"engine": told(info), "memory": info["internal_states"][0].get(KEY, {})}


def _obey(arm: Arm, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "memory":
            return {"memory": arm.info()["internal_states"][0].get(KEY, {})}
        case "coverage":
            return {"coverage": coverage.read_counters(arm.info()) or {}}
        case "run":
            return {"seconds": _run(arm, command)}
        case "profile":
            assert isinstance(arm.transport, LocalEngine)
            return {"profile": profile(arm.transport, command["kind"], lambda: _run(arm, command))}
    raise ValueError(f"unknown command {command['do']!r}")


def _run(arm: Arm, command: dict[str, Any]) -> float:
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


if __name__ == "__main__":
    main()
