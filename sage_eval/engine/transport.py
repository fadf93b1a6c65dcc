"""How payloads reach SGLang: from an event loop on a thread of its own, batches of any size in bounded memory."""

import asyncio
import queue
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from sage_eval.engine.requests import Payload, Reply
from sage_eval.errors import EngineError

MAX_IN_FLIGHT = 256
"""Requests handed to SGLang at a time; it queues them itself."""
_POLL_SECONDS = 0.5

T = TypeVar("T")


class Transport(ABC):
    """Sends payloads and yields replies: in this process (`local.LocalEngine`) or over HTTP (`server.ServerEngine`)."""

    limit = MAX_IN_FLIGHT
    """Requests on their way at a time."""
    closed = False
    loop: asyncio.AbstractEventLoop

    @property
    def repeated_tokens(self) -> int:
        """Prompt tokens that were sent twice so far: over HTTP an answer may get lost."""
        return 0

    @abstractmethod
    async def answer(self, payload: Payload) -> Reply:
        """The reply to one payload; runs on `loop`.

        To a payload with `stream` set it is the last piece, with `arrivals` added: `time.perf_counter` at each piece,
        the first of them the time of the first token.
        """

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """SGLang's resolved settings, its version and `internal_states`, one for each data-parallel rank."""

    @abstractmethod
    def flush_cache(self) -> None:
        """Empty the prefix cache; `EngineError` where it is not."""

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called twice."""

    def raise_if_dead(self) -> None:  # noqa: B027 - over HTTP a lost connection is the request's own error
        """Raise where no answer will come any more."""

    def stream(self, batch: Sequence[Payload]) -> Iterator[tuple[int, Reply]]:
        """Serve `batch` in its order; yields (index in the batch, reply) as replies arrive.

        No more than `limit` are on their way, and as many again may be answered and not yet taken. Each payload is
        asked for just before it is sent. What is not waited for any more (Ctrl-C, an error) is cancelled.
        """
        results: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()
        untaken = asyncio.Semaphore(2 * self.limit)
        work = iter(enumerate(batch))

        async def serve() -> None:
            for index, payload in work:
                await untaken.acquire()
                try:
                    results.put((index, await self.answer(payload)))
                except Exception as error:
                    results.put((index, error))

        async def serve_all() -> None:
            await asyncio.gather(*(serve() for _ in range(min(self.limit, len(batch)))))

        task = self.submit(serve_all())
        try:
            for _ in range(len(batch)):
                while True:
                    try:
                        index, reply = results.get(timeout=_POLL_SECONDS)
                        break
                    except queue.Empty:
                        self.raise_if_dead()
                self.loop.call_soon_threadsafe(untaken.release)
                if isinstance(reply, Exception):
                    raise reply
                yield index, reply
        finally:
            task.cancel()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self.closed:
            work.close()
            raise EngineError("the engine, or the connection to it, is closed; open the arm again")
        return asyncio.run_coroutine_threadsafe(work, self.loop)


async def cancel_others() -> None:
    """End every other task of this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def checked(reply: Reply) -> Reply:
    """`reply`; `EngineError` where SGLang gave up on the request."""
    reason = reply["meta_info"].get("finish_reason") or {}
    if reason.get("type") == "abort":
        raise EngineError(f"SGLang aborted a request: {reason.get('message', reason)}")
    return reply
