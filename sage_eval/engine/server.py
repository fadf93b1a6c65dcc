"""Running SGLang servers as an arm: the same payloads as in process, over HTTP, shared out among the addresses."""

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sage_eval.attention.settings import AttentionSettings
from sage_eval.engine.arm import Arm, facts
from sage_eval.engine.client import CONNECTIONS, RETRIES, SILENCE_SECONDS, Client
from sage_eval.engine.options import BACKEND_ARGUMENTS, ArmOptions
from sage_eval.engine.requests import Payload, Reply
from sage_eval.engine.transport import Transport, cancel_others
from sage_eval.errors import EngineError, PrerequisiteError, UsageError

SETTINGS = "sage_attn_settings"
"""Entry of the scheduler's internal state, see `sage_eval.plugins`."""
_IDLE_SECONDS = 60
_IDENTITY = (
    "model_path", "served_model_name", "weight_version", "version", "dtype", "kv_cache_dtype", "quantization",
    *BACKEND_ARGUMENTS,
)  # fmt: skip
"""What must be the same at every address and at every time."""
_LOCAL = {"revision", "trust_remote_code", "tokenizer_path"}
"""Engine arguments that say how the model's files are read here."""

T = TypeVar("T")


class ServerEngine(Transport):
    """Talks to `python -m sglang.launch_server …` or `sglang serve …`. Leaves the servers running when closed.

    `urls`: addresses, joined by `;` or one by one. Each is sent `connections` requests at a time. The other arguments
    are `Client`'s.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        connections: int = CONNECTIONS,
        silence: float = SILENCE_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        parts = re.split(r"[;\s]+", urls.strip()) if isinstance(urls, str) else list(urls)
        named = dict.fromkeys(part for part in parts if part)
        if not named:
            raise UsageError("base_url is empty: write http://HOST:PORT")
        self._clients = [Client(url, connections, silence, retries) for url in named]
        self.limit = connections * len(self._clients)
        self._identity: dict[str, Any] | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="sglang-client", daemon=True)
        self._thread.start()

    @property
    def repeated_tokens(self) -> int:
        return sum(client.repeated_tokens for client in self._clients)

    def info(self) -> dict[str, Any]:
        """SGLang's server info: of the first address, with the `internal_states` of all.

        Raises `PrerequisiteError` where two addresses serve different things, `EngineError` where one of them has
        changed since the first call.
        """
        told = {url: info for found in self.ask(lambda client: client.infos()) for url, info in found.items()}
        first, infos = next(iter(told)), list(told.values())
        for url, info in told.items():
            now = {name: info.get(name) for name in _IDENTITY}
            known = self._identity = self._identity or now
            name = next((name for name in _IDENTITY if known[name] != now[name]), None)
            if name and url == first:
                raise EngineError(
                    f"the server at {url} has changed: its {name} was {known[name]!r} and is {now[name]!r}"
                )
            if name:
                raise PrerequisiteError(
                    f"the servers are not alike: {name} is {known[name]!r} at {first} and {now[name]!r} at {url}"
                )
        return {
            **infos[0],
            "max_req_input_len": min(info["max_req_input_len"] for info in infos),
            "internal_states": [state for info in infos for state in info["internal_states"]],
        }

    def flush_cache(self) -> None:
        self.ask(lambda client: client.do("POST", f"/flush_cache?timeout={_IDLE_SECONDS}"))

    def freeze_gc(self) -> None:
        """Have the servers' processes leave what they hold now out of garbage collection."""
        self.ask(lambda client: client.do("POST", "/freeze_gc"))

    def ask(self, question: Callable[[Client], Coroutine[Any, Any, T]]) -> list[T]:
        """The answer of each server to `question`, which takes its `Client`."""

        async def all_of_them() -> list[T]:
            return list(await asyncio.gather(*map(question, self._clients)))

        return self.submit(all_of_them()).result()

    def close(self) -> None:
        if self.closed:
            return
        self.submit(self._end()).result()
        self.closed = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _end(self) -> None:
        await cancel_others()
        await asyncio.gather(*(client.close() for client in self._clients))

    async def answer(self, payload: Payload) -> Reply:
        return await min(self._clients, key=lambda client: client.in_flight).generate(payload)


def open_server(
    options: ArmOptions,
    urls: str | Sequence[str],
    *,
    served_model: str | None = None,
    vocabulary: int | None = None,
    **more: Any,
) -> Arm:
    """An arm on the servers at `urls`, which bring their own engine settings.

    What `options` names (backend, mode, dtype, other engine arguments, settings of `sage_attn`) is what the servers
    are expected to have. `served_model` is their name of the model, where it is another than `options.model`;
    `vocabulary` the number of its token ids; `more` arguments of `ServerEngine`. Raises `PrerequisiteError` if nothing
    answers, if what answers is no SGLang server, or one that serves something else than expected.
    """
    engine = ServerEngine(urls, **more)
    try:
        info = engine.info()
        _check_model(served_model or options.model, info)
        served = _served(options, info)
        return Arm(served, engine, vocabulary)
    except BaseException:
        engine.close()
        raise


def _check_model(wanted: str, info: Mapping[str, Any]) -> None:
    """By name: the server's path or name of its model, or the last part of either."""
    told = [str(info[name]) for name in ("served_model_name", "model_path") if info.get(name)]
    if not {wanted.rstrip("/"), Path(wanted).name} & {*told, *(Path(name).name for name in told)}:
        raise PrerequisiteError(
            f"the server serves the model {told[0] if told else '?'}, not {wanted}; if that is the same model by "
            f"another name, say served_model={told[0] if told else 'NAME'}"
        )


def _served(options: ArmOptions, info: Mapping[str, Any]) -> ArmOptions:
    """The options of the servers themselves; `PrerequisiteError` where they are not those expected."""
    backends = {name: info[name] for name in BACKEND_ARGUMENTS if info.get(name)}
    fresh = info.get("disable_radix_cache") and info.get("chunked_prefill_size") in (None, -1)
    settings = (info.get("internal_states") or [{}])[0].get(SETTINGS)
    served = options.model_copy(
        update={
            "engine": backends,
            "mode": "fidelity" if fresh else "throughput",
            "attention": AttentionSettings.model_validate(settings) if settings else None,
        }
    )
    asked = {name: value for name, value in options.engine.items() if name not in (*_LOCAL, *BACKEND_ARGUMENTS)}
    asked |= {name: backend for name, backend in _backends(options.engine).items() if backend}
    if "mode" in options.model_fields_set:
        asked["mode"] = options.mode
    if options.attention:
        asked |= options.attention.model_dump(exclude_unset=True)
    found = {**info, **facts(info), **_backends(info), "mode": served.mode, **(settings or {})}
    for name, wanted in asked.items():
        if str(wanted) != str(found.get(name)):
            raise PrerequisiteError(
                f"{name}={wanted} was asked for, and the server has {found.get(name)}: it is set where the server is "
                "started"
            )
    return served


def _backends(values: Mapping[str, Any]) -> dict[str, Any]:
    """The backend of each phase."""
    general, *phases = BACKEND_ARGUMENTS
    return {name: values.get(name) or values.get(general) for name in phases}
