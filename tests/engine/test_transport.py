import asyncio
import contextlib
import threading
import time

import pytest

from sage_eval.engine.planning import Payloads
from sage_eval.engine.transport import Transport


class Counting(Transport):
    """Answers with the payload's number; counts the requests on their way and the payloads that were made."""

    def __init__(self, limit, fail=None):
        self.limit, self.fail = limit, fail
        self.made, self.busy, self.most = [], 0, 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def batch(self, count):
        return Payloads(self.make, range(count))

    def make(self, index):
        self.made.append(index)
        return {"n": index}

    async def answer(self, payload):
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(0)
        self.busy -= 1
        if payload["n"] == self.fail:
            raise ValueError("refused")
        return {"text": payload["n"]}

    def info(self):
        return {}

    def flush_cache(self):
        pass

    def close(self):
        self.submit(asyncio.sleep(0.05)).result()  # what was cancelled ends
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def test_every_payload_is_answered_and_so_many_at_a_time():
    with contextlib.closing(Counting(8)) as transport:
        replies = list(transport.stream(transport.batch(1000)))
    assert sorted(index for index, _ in replies) == list(range(1000))
    assert all(reply == {"text": index} for index, reply in replies)
    assert transport.most == 8
    assert transport.made == list(range(1000)), "each is made once, in order"


def test_answers_that_nobody_takes_stop_the_sending():
    with contextlib.closing(Counting(8)) as transport:
        replies = transport.stream(transport.batch(1000))
        next(replies)
        time.sleep(0.2)
        assert len(transport.made) <= 1 + 16 + 8  # taken, answered, and about to be sent
        replies.close()


def test_a_refusal_is_raised_in_place_of_the_answer():
    with contextlib.closing(Counting(2, fail=3)) as transport, pytest.raises(ValueError, match="refused"):
        list(transport.stream(transport.batch(5)))


def test_an_empty_batch_ends_at_once():
    with contextlib.closing(Counting(8)) as transport:
        assert list(transport.stream([])) == []
