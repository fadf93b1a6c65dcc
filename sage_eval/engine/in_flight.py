"""Serving a batch of any size in bounded memory: so many requests at a time, and so many answers not yet read."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sage_eval.engine.requests import Payload, Reply

MAX_IN_FLIGHT = 256
"""Requests handed to SGLang at a time; it queues them itself."""


class InFlight:
    """Sends the payloads of `batch` to `answer` in their order and hands (index, reply or error) to `deliver`.

    No more than `limit` are on their way, and as many again may be answered and wait to be `read`. All but the
    constructor belongs to one event loop.
    """

    def __init__(
        self,
        batch: Sequence[Payload],
        answer: Callable[[Payload], Awaitable[Reply]],
        deliver: Callable[[tuple[int, Reply | Exception]], None],
        limit: int = MAX_IN_FLIGHT,
    ) -> None:
        self._batch, self._answer, self._deliver = batch, answer, deliver
        self._limit = min(limit, len(batch))
        self._unread = asyncio.Semaphore(2 * limit)

    async def run(self) -> None:
        """Serve all of them."""
        work = iter(enumerate(self._batch))  # shared: payloads may be made one by one, just before they are sent

        async def serve() -> None:
            while True:
                await self._unread.acquire()
                try:
                    index, payload = next(work)
                except StopIteration:
                    self._unread.release()
                    return
                try:
                    self._deliver((index, await self._answer(payload)))
                except Exception as error:
                    self._deliver((index, error))

        await asyncio.gather(*(serve() for _ in range(self._limit)))

    def read(self) -> None:
        """One delivered answer was taken."""
        self._unread.release()
