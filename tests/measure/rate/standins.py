"""Workers that stand in for servers and for the load generator: their times and failures are given, no engine.

What fails is told by the environment: `BROKEN` maps an arm to "start", "small cache", "hangs", or to a number of
requests, a run of which fails; "generator" maps to such a number, at which the load generator ends. What is sent goes
into the file `SENT`, one line per run.
"""

import json
import os
import time
from pathlib import Path
from typing import Any


def broken(name: str) -> Any:
    return json.loads(os.environ.get("BROKEN", "{}")).get(name)


def note(*words: Any) -> None:
    with Path(os.environ["SENT"]).open("a") as file:
        file.write(json.dumps(words) + "\n")


class Server:
    """Its address is its arm's name."""

    def __init__(self, model: str, arguments: dict[str, Any]) -> None:
        self.name = arguments["attention_backend"]
        assert (Path(arguments["tokenizer_path"]) / "tokenizer.json").exists()
        if broken(self.name) == "start":
            raise RuntimeError("it does not start")

    def introduction(self) -> dict[str, Any]:
        tokens = 100 if broken(self.name) == "small cache" else 1_000_000
        return {"engine": {"max_total_num_tokens": tokens}, "command": "python -m sglang.launch_server"}

    def address(self) -> str:
        return self.name

    def explain(self, error: str) -> str:
        return error

    def freeze_gc(self) -> None:
        note(self.name, "freeze")

    def coverage(self) -> dict[str, float]:
        return {"prefill/some": 10.0}


class LoadGenerator:
    """Every run takes 5 s, as far as it says."""

    def __init__(self, words: str) -> None:
        note("generator", "start")

    def send(self, *, url: str, rate: float | None, requests: int, seed: int, **_: Any) -> dict[str, Any]:
        if broken("generator") == requests:
            os._exit(3)
        if broken(url) == "hangs":
            time.sleep(60)
        if broken(url) == requests:
            return {"failed": "1 of 4 requests failed", "own": False}
        note(url, rate, seed, requests)
        times = [0.1] * requests
        numbers = {"late": 0.0, "seconds": 5.0, "input_tokens": 1, "output_tokens": 1, "itl": {}}
        return {"sent": times, "ttft": times, "latency": times, **numbers}
