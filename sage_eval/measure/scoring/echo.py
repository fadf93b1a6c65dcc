"""Memory and time of the client itself: it scores through an engine that answers at once. Runs in its own process."""

import asyncio
import random
import sys
import threading
import time
from typing import Any

from sage_eval.engine.arm import Arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import Payload, Reply, ScoreRequest
from sage_eval.engine.scheduler_memory import resident
from sage_eval.engine.transport import Transport
from sage_eval.measure.scoring.rows import Client

TOKENS = 16
"""Per request."""
VOCABULARY = 128_256


class Echo(Transport):
    """A transport whose answers come from an event loop on a thread, as the real engine's do."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def info(self) -> dict[str, Any]:
        return {"attention_backend": "echo", "max_req_input_len": 1 << 20, "internal_states": []}

    def flush_cache(self) -> None:
        """There is none."""

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def answer(self, payload: Payload) -> Reply:
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
    base = resident()["rss"]
    requests = _requests(rng, count)
    held = resident()["rss"]  # the peak is counted from here
    start = time.perf_counter()
    scores = arm.score(requests)
    seconds = time.perf_counter() - start
    peak = resident()["peak_rss"]
    arm.close()
    parts = (part for score in scores[:1000] for part in (score, score.logprobs, *score.logprobs))
    each = sum(map(sys.getsizeof, parts)) / min(count, 1000) + sys.getsizeof(scores) / count
    return Client(requests=count, seconds=seconds, base=base, held=held, peak=peak, result=round(each * count))


def _requests(rng: random.Random, count: int) -> list[ScoreRequest]:
    # Token ids from 257 on are objects of their own, as a tokenizer's are.
    def tokens(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(257, VOCABULARY) for _ in range(length))

    return [ScoreRequest(tokens(TOKENS), tokens(1)) for _ in range(count)]
