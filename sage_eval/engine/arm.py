"""An arm: an engine with its options, asked for scores and generations, keeping account of what was computed."""

import random
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from sage_eval.engine import coverage as account
from sage_eval.engine.coverage import Coverage
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.planning import group_generations, group_scores
from sage_eval.engine.requests import (
    GenerateRequest,
    Generation,
    Payload,
    Reply,
    Score,
    ScoreRequest,
    generate_payload,
    read_generation,
)
from sage_eval.errors import PrerequisiteError


class Transport(Protocol):
    """How payloads reach SGLang: in this process (`local.LocalEngine`) or over HTTP (`server.ServerEngine`)."""

    def stream(self, batch: Sequence[Payload]) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) as replies arrive."""
        ...

    def info(self) -> dict[str, Any]:
        """SGLang's server info."""
        ...

    def flush_cache(self) -> None:
        """Empty the prefix cache."""
        ...

    def close(self) -> None:
        """Release everything; may be called twice."""
        ...


class Arm:
    """Scores and generates through `transport`. A context manager; `close` stops the engine's processes."""

    def __init__(self, options: ArmOptions, transport: Transport) -> None:
        self.options = options
        self.transport = transport
        self.coverage = Coverage()
        """Everything computed through this arm so far."""
        info = self.info()
        self.backend = str(options.backend or info.get("attention_backend") or info.get("prefill_attention_backend"))
        self.share_prefixes = not info.get("disable_radix_cache", False)
        self.usable_tokens = int(info["max_req_input_len"]) - 1
        """Longest prompt the engine serves."""
        wanted = options.max_length
        if wanted is not None and self.usable_tokens < wanted:
            raise PrerequisiteError(
                f"the engine serves prompts of {self.usable_tokens} tokens, fewer than max_length={wanted}: its KV "
                f"cache holds {info.get('max_total_num_tokens')}; lower max_length or raise max_total_tokens"
            )

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        greedy: bool = True,
        top: int = 0,
        on_result: Callable[[int, Score], None] | None = None,
    ) -> list[Score]:
        """Scores in the order of `requests`.

        `greedy=False` saves the bookkeeping for the greedy flag, `top` asks for that many most probable tokens at each
        position. `on_result(index, score)` is called as results arrive, in any order. Raises `EngineError` (engine
        died, refused, NaN) and `CoverageError`.
        """
        groups = group_scores(requests, share_prefixes=self.share_prefixes)
        results: dict[int, Score] = {}

        def collect(index: int, reply: Reply) -> None:
            for member in groups[index].members:
                results[member] = groups[index].read(requests[member], reply, greedy=greedy, top=top)
                if on_result:
                    on_result(member, results[member])

        self._run([group.payload(greedy=greedy, top=top) for group in groups], collect)
        return [results[index] for index in range(len(requests))]

    def generate(
        self, requests: Sequence[GenerateRequest], *, on_result: Callable[[int, Generation], None] | None = None
    ) -> list[Generation]:
        """Generations in the order of `requests`; identical greedy requests are computed once."""
        groups = group_generations(requests, share_prefixes=self.share_prefixes)
        results: dict[int, Generation] = {}

        def collect(index: int, reply: Reply) -> None:
            for member in groups[index]:
                results[member] = read_generation(reply)
                if on_result:
                    on_result(member, results[member])

        self._run([generate_payload(requests[group[0]]) for group in groups], collect)
        return [results[index] for index in range(len(requests))]

    def info(self) -> dict[str, Any]:
        """SGLang's server info: resolved settings, memory, `internal_states`."""
        return self.transport.info()

    def flush_cache(self) -> None:
        """Empty the prefix cache, so that what follows is computed afresh."""
        self.transport.flush_cache()

    def close(self) -> None:
        """Stop the engine. May be called twice."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, payloads: Sequence[Payload], collect: Callable[[int, Reply], None]) -> None:
        """Send `payloads`, hand each reply to `collect`, then account for what was computed."""
        if not payloads:
            return
        before = account.read_counters(self.info())
        metas: list[Reply] = []
        order = list(range(len(payloads)))
        if self.options.order_seed is not None:
            random.Random(self.options.order_seed).shuffle(order)
        for place, reply in self.transport.stream([payloads[index] for index in order]):
            collect(order[place], reply)
            metas.append({"meta_info": {key: reply["meta_info"].get(key) for key in account.COUNTED_KEYS}})
        after = account.read_counters(self.info())
        counted = None if after is None else account.coverage_delta(before or {}, after)
        latest = account.tally(metas, counted, self.backend)
        if self.options.sage_prefill:
            attention = self.options.attention
            asked_exact = attention is not None and attention.variant == "exact"
            account.check(latest, sage_only=self.options.mode == "fidelity" and not asked_exact)
        self.coverage += latest


def open_arm(options: ArmOptions) -> Arm:
    """Start SGLang in this process with `options`, on the GPU if there is one.

    Raises `UsageError` and `PrerequisiteError` for what can be known beforehand, `EngineError` if SGLang fails.
    """
    import torch

    from sage_eval.engine.checks import check_before_start
    from sage_eval.engine.local import LocalEngine

    check_before_start(options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = LocalEngine(options.server_args(device), options.environment())
    try:
        return Arm(options, engine)
    except BaseException:
        engine.close()
        raise
