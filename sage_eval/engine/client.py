"""One SGLang server by its address: pooled connections, retries with back-off, and errors that say what is wrong.

The key of a server that wants one comes from the environment, `SGLANG_API_KEY` or else `OPENAI_API_KEY`. It goes into
the header of each request and nowhere else.
"""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeVar

import httpx

from sage_eval.engine.requests import Payload, Reply
from sage_eval.engine.transport import checked
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError, UsageError

KEYS = ("SGLANG_API_KEY", "OPENAI_API_KEY")
CONNECTIONS = 32
SILENCE_SECONDS = 600.0
RETRIES = 6
_CONNECT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_BUSY = (429, 503)
_SECRET = ("api_key", "admin_api_key", "ssl_keyfile_password", "launch_command")
_CHANGING = ("model_path", "served_model_name", "weight_version", "architectures")
"""What a weight update changes: `/model_info` tells it, `/server_info` what the server was started with."""


T = TypeVar("T")

logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for each request wherever INFO is shown


class _LostError(Exception):
    """The request may succeed if it is sent again, after so many seconds if the server said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _NoPathError(PrerequisiteError):
    """What answers is no SGLang server, or a router before some."""


class Client:
    """All but the constructor belongs to one event loop.

    `silence`: seconds without a byte after which the server counts as hanging; `retries`: how often a request is sent
    again after 429, 503 or a lost connection. Raises `UsageError` for what is no address.
    """

    def __init__(self, url: str, connections: int, silence: float, retries: int) -> None:
        self.url = _checked(url)
        self.in_flight = 0
        """Requests that were sent and not yet answered."""
        self.repeated_tokens = 0
        """Prompt tokens that were sent again and may have been computed more than once."""
        self._answered = False
        self._silence, self._retries = silence, retries
        self._behind: list[Client] = []
        name = next((name for name in KEYS if os.environ.get(name)), None)
        self._key = os.environ[name] if name else None
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(silence, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=connections + 1, max_keepalive_connections=connections + 1),
        )

    async def generate(self, payload: Payload) -> Reply:
        """The reply to `payload`, as `Transport.answer` has it."""
        self.in_flight += 1
        try:
            reply: Reply = await self._retried(lambda: self._once("/generate", payload), len(payload["input_ids"]))
        finally:
            self.in_flight -= 1
        if not isinstance(reply, dict) or "meta_info" not in reply:
            raise EngineError(f"the SGLang server at {self.url} answered with JSON that is no reply: {str(reply)[:80]}")
        return checked(reply)

    async def json(self, path: str, payload: dict[str, Any] | None = None) -> Any:
        """What the server answers to GET, or to POST of `payload`."""
        return await self._retried(lambda: self._once(path, payload))

    async def do(self, method: str, path: str) -> None:
        """Have something done; the answer's text does not matter."""
        response = await self._retried(lambda: self._sent(method, path))
        await response.aclose()

    async def info(self) -> dict[str, Any]:
        """SGLang's server info, without its keys; of the model what it serves now."""
        info, model = await self.json("/server_info"), await self.json("/model_info")
        if not isinstance(info, dict) or not isinstance(model, dict) or "max_req_input_len" not in info:
            raise PrerequisiteError(f"{self.url} is no SGLang server: its /server_info tells of no engine")
        known = {name: value for name, value in info.items() if name not in _SECRET}
        states = [
            {name: value for name, value in state.items() if name not in _SECRET}
            for state in info.get("internal_states") or []
        ]
        now = {name: model[name] for name in _CHANGING if name in model}
        return {**known, **now, "internal_states": states}

    async def infos(self) -> dict[str, dict[str, Any]]:
        """`info` by address: of the server, or where this is SGLang's router, which has none, of each behind it."""
        if not self._behind:
            try:
                return {self.url: await self.info()}
            except _NoPathError:
                if not (urls := await self._routed()):
                    raise
                self._behind = [Client(url, 1, self._silence, self._retries) for url in urls]
        infos = await asyncio.gather(*(client.info() for client in self._behind))
        return {client.url: info for client, info in zip(self._behind, infos, strict=True)}

    async def _routed(self) -> list[str]:
        """The addresses behind SGLang's router, none where this is something else."""
        try:
            told = await self.json("/workers")
            return [worker["url"] for worker in told["workers"]]
        except (SageEvalError, LookupError, TypeError):
            return []

    async def close(self) -> None:
        await self._client.aclose()
        for client in self._behind:
            await client.close()

    async def _retried(self, once: Callable[[], Awaitable[T]], tokens: int = 0) -> T:
        """The answer of `once`, which sends so many prompt tokens; `EngineError` where every attempt is lost."""
        for attempt in count():
            try:
                return await once()
            except _LostError as lost:
                if attempt >= self._retries:
                    raise EngineError(f"{lost}; given up after {self._retries} retries") from lost
                # Seconds double, and are not the same for all, so that not all requests come back at once.
                pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.75, 1.25)
                await asyncio.sleep(pause if lost.after is None else min(lost.after, _LONGEST_PAUSE))
                self.repeated_tokens += tokens
        raise AssertionError("unreachable")

    async def _once(self, path: str, payload: dict[str, Any] | None) -> Any:
        response = await self._sent("GET" if payload is None else "POST", path, json=payload)
        try:
            if payload and payload.get("stream"):
                return await self._last_piece(response)
            await response.aread()
            return self._parsed(response)
        except httpx.HTTPError as error:
            raise self._broken(path, error) from error
        finally:
            await response.aclose()

    async def _sent(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The response, of which only the head was read unless it is an error."""
        try:
            request = self._client.build_request(method, path, **more)
            response = await self._client.send(request, stream=True)
            if not response.is_success:
                await response.aread()
        except httpx.HTTPError as error:
            raise self._broken(path, error) from error
        if not response.is_success:
            raise self._refusal(response)
        return response

    def _broken(self, path: str, error: httpx.HTTPError) -> Exception:
        """What an error of the connection means."""
        if isinstance(error, httpx.ReadTimeout):
            return EngineError(f"the SGLang server at {self.url} hangs: no answer to {path} within {self._silence:g} s")
        if self._answered and isinstance(error, httpx.TransportError):
            return _LostError(f"the SGLang server at {self.url} does not answer any more ({error!r})")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return PrerequisiteError(f"no SGLang server answers at {self.url} ({error}); start one or fix the address")
        return EngineError(f"the SGLang server at {self.url} broke off: {error!r}")

    def _refusal(self, response: httpx.Response) -> Exception:
        """What an answer that is no success means."""
        code, text = response.status_code, self._without_key(response.text[:300])
        if code in _BUSY:
            seconds = response.headers.get("retry-after", "")
            reason = f"the SGLang server at {self.url} is busy or not ready: it answered {code}: {text}"
            return _LostError(reason, float(seconds) if seconds.isdigit() else None)
        if code in (401, 403):
            given = "refuses the key given" if self._key else "wants a key"
            return PrerequisiteError(f"the SGLang server at {self.url} {given} ({code}): set {KEYS[0]}")
        if response.has_redirect_location:
            target = response.headers["location"]
            return PrerequisiteError(f"{self.url} redirects to {target}: give the SGLang server's own address")
        if code == 404:
            path = response.request.url.path
            return _NoPathError(f"{self.url} has no {path} (404): give an SGLang server's address, without /v1")
        return EngineError(f"the SGLang server at {self.url} answered {code}: {text}")

    def _parsed(self, response: httpx.Response) -> Any:
        kind = response.headers.get("content-type", "no type").partition(";")[0]
        try:
            value = response.json()
        except ValueError as error:
            if "json" in kind and self._answered:
                raise _LostError(f"the SGLang server at {self.url} sent a JSON answer that is cut short") from error
            path, start = response.request.url.path, self._without_key(response.text[:80])
            raise PrerequisiteError(
                f"{self.url} is no SGLang server: it answered {path} with {kind}, not JSON: {start!r}"
            ) from error
        self._answered = True
        return value

    async def _last_piece(self, response: httpx.Response) -> Reply:
        reply: Reply = {}
        arrivals: list[float] = []
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return {**reply, "arrivals": arrivals}
            reply = json.loads(line.removeprefix("data: "))
            arrivals.append(time.perf_counter())
            if "error" in reply:
                raise EngineError(f"SGLang refused a request: {reply['error'].get('message', reply['error'])}")
        raise _LostError(f"the SGLang server at {self.url} cut a stream of tokens short")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url.strip().rstrip("/"))
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is no address ({error}); write http://HOST:PORT") from None
    if parsed.userinfo or parsed.query:
        raise UsageError(
            f"the address of {parsed.host} carries a password or parameters, which would be written into records: "
            f"put the key into {KEYS[0]}"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is no address; write http://HOST:PORT")
    return str(parsed)
