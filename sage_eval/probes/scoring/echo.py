"""What the client itself needs: scoring through an engine that answers at once. Runs in a process of its own."""

import asyncio
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from sage_eval.engine.arm import Arm
from sage_eval.engine.in_flight import InFlight
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import Payload, Reply, Score, ScoreRequest
from sage_eval.probes.scoring.record import Client

TOKENS = 16
"""Of a request."""
VOCABULARY = 128_256


class Echo:
    """A transport whose answers are made up in an event loop on a thread, where the real engine's arrive too."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stream(self, batch: Sequence[Payload]) -> Iterator[tuple[int, Reply]]:
        results: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        flight = InFlight(batch, _answer, results.put)
        task = asyncio.run_coroutine_threadsafe(flight.run(), self._loop)
        try:
            for _ in range(len(batch)):
                index, reply = results.get()
                self._loop.call_soon_threadsafe(flight.read)
                if isinstance(reply, Exception):
                    raise reply
                yield index, reply
        finally:
            task.cancel()

    def info(self) -> dict[str, Any]:
        return {"attention_backend": "echo", "max_req_input_len": 1 << 20, "internal_states": []}

    def flush_cache(self) -> None:
        """There is none."""

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        leftover = asyncio.all_tasks(self._loop)
        for task in leftover:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        self._loop.close()


async def _answer(payload: Payload) -> Reply:
    await asyncio.sleep(0)
    wanted = payload["token_ids_logprob"]
    after = [(-2.0 - token / VOCABULARY, token, None) for token in wanted]
    return {
        "output_ids": [],
        "meta_info": {
            "prompt_tokens": len(payload["input_ids"]),
            "cached_tokens": 0,
            "completion_tokens": 0,
            "finish_reason": {"type": "length"},
            "input_token_logprobs": [],
            "output_token_ids_logprobs": [after],
            "output_top_logprobs": [[(-1.0, 0, None)]],
        },
    }


def measure(count: int, seed: int) -> Client:
    """Memory and time of scoring `count` requests of 16 tokens, no two of them alike."""
    rng = random.Random(seed)
    arm = Arm(ArmOptions(model="echo"), Echo())
    arm.score(_requests(rng, 1000))  # what is made once is there
    base = _resident()
    requests = _requests(rng, count)
    held = _resident()
    _reset_peak()
    start = time.perf_counter()
    scores = arm.score(requests)
    seconds = time.perf_counter() - start
    peak = _peak()
    arm.close()
    each = sum(map(_size, scores[:1000])) / min(count, 1000) + sys.getsizeof(scores) / count
    return Client(requests=count, seconds=seconds, base=base, held=held, peak=peak, result=round(each * count))


def _requests(rng: random.Random, count: int) -> list[ScoreRequest]:
    # Token ids from 257 on are objects of their own, as a tokenizer's are.
    def tokens(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(257, VOCABULARY) for _ in range(length))

    return [ScoreRequest(tokens(TOKENS), tokens(1)) for _ in range(count)]


def _size(score: Score) -> int:
    return sys.getsizeof(score) + sys.getsizeof(score.logprobs) + sum(map(sys.getsizeof, score.logprobs))


def _resident() -> int:
    return psutil.Process().memory_info().rss


def _reset_peak() -> None:
    """Let the kernel count the peak from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
