"""A running SGLang server as an arm: the same payloads over HTTP."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import httpx

from sage_eval.engine.arm import Arm
from sage_eval.engine.options import BACKEND_ARGUMENTS, ArmOptions
from sage_eval.engine.requests import Payload, Reply
from sage_eval.errors import EngineError, PrerequisiteError, UsageError

CONNECTIONS = 32
_IDLE_SECONDS = 60
_TIMEOUT = httpx.Timeout(None, connect=10.0)  # a long prompt may take minutes; a server that is not there shows at once
_CONTROL = httpx.Timeout(300.0, connect=10.0)  # answered between two steps of the engine, or never


class ServerEngine:
    """Talks to `python -m sglang.launch_server …` or `sglang serve …` at `url`. Leaves it running when closed."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        self._url = url.rstrip("/")
        self._client = httpx.Client(base_url=self._url, timeout=_TIMEOUT, limits=limits)

    def stream(self, batch: Sequence[Payload]) -> Iterator[tuple[int, Reply]]:
        """Serve `batch`; yields (index in the batch, reply) as replies arrive."""
        pool = ThreadPoolExecutor(CONNECTIONS)
        waiting = iter(enumerate(batch))
        work: dict[Future[httpx.Response], int] = {}
        try:
            while True:
                for index, payload in islice(waiting, 2 * CONNECTIONS - len(work)):
                    work[pool.submit(self._request, "POST", "/generate", json=payload)] = index
                if not work:
                    return
                for done in wait(work, return_when=FIRST_COMPLETED).done:
                    yield work.pop(done), done.result().json()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def info(self) -> dict[str, Any]:
        """SGLang's server info."""
        info: dict[str, Any] = self._request("GET", "/server_info", timeout=_CONTROL).json()
        return info

    def flush_cache(self) -> None:
        """Empty the prefix cache as soon as the server is idle; `EngineError` where other clients keep it busy."""
        self._request("POST", f"/flush_cache?timeout={_IDLE_SECONDS}", timeout=_CONTROL)

    def freeze_gc(self) -> None:
        """Have the server's processes leave what they hold now out of garbage collection."""
        self._request("POST", "/freeze_gc", timeout=_CONTROL)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **more)
        except httpx.ConnectError as error:
            raise PrerequisiteError(
                f"no SGLang server answers at {self._url} ({error}); start one or fix the URL"
            ) from error
        except httpx.ReadTimeout as error:
            raise EngineError(f"the SGLang server at {self._url} hangs: no answer to {path} in time") from error
        except httpx.HTTPError as error:
            raise EngineError(f"the SGLang server at {self._url} broke off: {error!r}") from error
        if response.is_error:
            raise EngineError(
                f"the SGLang server at {self._url} answered {response.status_code}: {response.text[:300]}"
            )
        return response


def open_server(options: ArmOptions, url: str) -> Arm:
    """An arm on the server at `url`, which brings its own engine settings.

    Raises `UsageError` for engine arguments and `sage_attn` settings, which belong on the server's command line, and
    `PrerequisiteError` if nothing answers.
    """
    given = set(options.engine) - {"revision", "trust_remote_code", "tokenizer_path"}
    if given or options.attention:
        names = ", ".join(sorted(given)) or "sage_attn settings"
        raise UsageError(f"{names}: with server_url the engine is configured where the server is started")
    engine = ServerEngine(url)
    try:
        info = engine.info()
        fresh = info.get("disable_radix_cache") and info.get("chunked_prefill_size") in (None, -1)
        served = options.model_copy(
            update={
                "engine": {name: info[name] for name in BACKEND_ARGUMENTS if info.get(name)},
                "mode": "fidelity" if fresh else "throughput",
            }
        )
        return Arm(served, engine)
    except BaseException:
        engine.close()
        raise
