import asyncio

from sage_eval.engine.in_flight import InFlight
from sage_eval.engine.planning import Payloads


def serve(count, limit, *, reading=True, fail=None):
    """What was delivered, the most requests on their way at once, and how many payloads were made."""
    delivered, made, busy, most = [], [], 0, 0

    async def answer(payload):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        if payload["n"] == fail:
            raise ValueError("refused")
        return {"text": payload["n"]}

    def make(index):
        made.append(index)
        return {"n": index}

    async def run():
        def deliver(item):
            delivered.append(item)
            if reading:
                flight.read()

        flight = InFlight(Payloads(make, range(count)), answer, deliver, limit)
        task = asyncio.create_task(flight.run())
        await asyncio.wait([task], timeout=0.2 if not reading else 30)
        task.cancel()

    asyncio.run(run())
    return delivered, most, made


def test_every_payload_is_answered_and_so_many_at_a_time():
    delivered, most, made = serve(1000, 8)
    assert sorted(index for index, _ in delivered) == list(range(1000))
    assert all(reply == {"text": index} for index, reply in delivered)
    assert most == 8
    assert made == list(range(1000)), "each is made once, in order"


def test_answers_that_nobody_reads_stop_the_sending():
    delivered, _, made = serve(1000, 8, reading=False)
    assert len(delivered) == len(made) == 16


def test_a_refusal_is_delivered_as_that_requests_answer():
    delivered, _, _ = serve(5, 2, fail=3)
    [(index, error)] = [(index, reply) for index, reply in delivered if isinstance(reply, Exception)]
    assert (index, str(error)) == (3, "refused")
    assert len(delivered) == 5


def test_an_empty_batch_ends_at_once():
    assert serve(0, 8) == ([], 0, [])
