"""An arm: an engine with its options, asked for scores and generations, keeping account of what was computed."""

import dataclasses
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sage_eval.engine import coverage as account
from sage_eval.engine import sampling
from sage_eval.engine.coverage import Coverage
from sage_eval.engine.journal import Answer, Journal, Slices, code_key, digest, fingerprint
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.planning import Payloads, check_tokens, group_generations, group_scores
from sage_eval.engine.requests import (
    GenerateRequest,
    Generation,
    Payload,
    Reply,
    Score,
    ScoreRequest,
    generate_payload,
    read_generation,
    read_score,
    score_payload,
)
from sage_eval.engine.transport import Transport
from sage_eval.errors import CoverageError, PrerequisiteError, UsageError

logger = logging.getLogger(__name__)

_DECIDING = (
    "version",
    "device",
    "dtype",
    "model_path",
    "revision",
    "quantization",
    "kv_cache_dtype",
    "tp_size",
    "disable_radix_cache",
    "chunked_prefill_size",
    "random_seed",
)
"""What of an engine's resolved settings makes its answers another engine's; the rest is in the options."""


class Arm:
    """Scores and generates through `transport`. A context manager; `close` stops the engine's processes.

    With a `journal` finished answers are kept there, and those that it has are not asked for again; sampled ones
    (temperature over 0) are drawn anew.
    """

    def __init__(self, options: ArmOptions, transport: Transport, vocabulary: int | None = None) -> None:
        """`vocabulary`: number of the model's token ids, where it is known."""
        self.options = options
        self.vocabulary = vocabulary
        self.transport = transport
        self.coverage = Coverage()
        """Everything computed through this arm so far, what the journal's answers took included."""
        self.journal: Journal | None = None
        self.kept_requests = 0
        """Engine requests whose answers the journal had."""
        self.kept_seconds = 0.0
        """What computing those had taken."""
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
        position. `on_result(index, score)` is called as results arrive, in any order. Raises `UsageError` for a request
        that the engine cannot take, before any is sent, `EngineError` (engine died, refused, NaN) and `CoverageError`.
        """
        groups = group_scores(requests, share_prefixes=self.share_prefixes)
        check_tokens((request.context + request.continuation for request in requests), self.vocabulary)
        results: list[Any] = [None] * len(requests)

        def payload(index: int) -> Payload:
            return score_payload([requests[member] for member in groups[index]], greedy=greedy, top=top)

        def read(index: int, reply: Reply) -> list[Score]:
            return [read_score(requests[member], reply, greedy=greedy, top=top) for member in groups[index]]

        def deliver(index: int, answer: Answer) -> None:
            for member, score in zip(groups[index], answer, strict=True):
                results[member] = score
                if on_result:
                    on_result(member, results[member])

        def wanted(index: int) -> tuple[bool, list[tuple[int, int]]]:
            tails = [requests[member].continuation for member in groups[index]]
            return greedy, [(len(tail), tail[-1]) for tail in tails]

        self._run(Payloads(payload, range(len(groups))), read, deliver, wanted)
        return results

    def generate(
        self, requests: Sequence[GenerateRequest], *, on_result: Callable[[int, Generation], None] | None = None
    ) -> list[Generation]:
        """Generations in the order of `requests`; identical greedy requests are computed once. Raises as `score`."""
        check_tokens((request.prompt for request in requests), self.vocabulary)
        for index, request in enumerate(requests):
            try:
                sampling.check(request.sampling)
            except UsageError as error:
                raise UsageError(f"request {index}: {error}") from None
        groups = group_generations(requests, share_prefixes=self.share_prefixes)
        results: dict[int, Generation] = {}

        def deliver(index: int, answer: Answer) -> None:
            for member in groups[index]:
                [results[member]] = answer  # type: ignore[assignment]
                if on_result:
                    on_result(member, results[member])

        payloads = Payloads(lambda index: generate_payload(requests[groups[index][0]]), range(len(groups)))
        self._run(payloads, lambda _, reply: [read_generation(reply)], deliver)
        return [results[index] for index in range(len(requests))]

    def keep(self, path: Path, key: str) -> None:
        """Keep answers in the journal at `path` and take those it has, if it is of these settings, this code and `key`.

        `key` says what the options do not: which weights. Raises `PrerequisiteError` for a file that cannot be written.
        """
        self.journal = Journal(path, self.identity(key))

    def identity(self, key: str) -> str:
        """A hash of all that makes an answer this arm's: settings, code, and `key`, which says which weights."""
        info = self.info()
        seen = {name: str(info.get(name)) for name in _DECIDING}
        return fingerprint(key, code_key(), self.backend, seen, self.options.model_dump(mode="json"))

    def info(self) -> dict[str, Any]:
        """SGLang's server info: resolved settings, memory, `internal_states`."""
        return self.transport.info()

    def flush_cache(self) -> None:
        """Empty the prefix cache, so that what follows is computed afresh."""
        self.transport.flush_cache()

    def close(self) -> None:
        """Stop the engine. May be called twice."""
        if self.journal:
            self.journal.close()
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def _run(
        self,
        payloads: Payloads,
        read: Callable[[int, Reply], Answer],
        deliver: Callable[[int, Answer], None],
        wanted: Callable[[int], Any] = lambda _: None,
    ) -> None:
        """Hand the answer to each of `payloads`, as `read` from its reply, to `deliver`; keep account of them.

        `wanted` says what `read` takes from a reply where the payload does not, for the journal.
        """
        order: Sequence[int] = range(len(payloads))
        if self.options.order_seed is not None:
            order = list(order)
            random.Random(self.options.order_seed).shuffle(order)
        if self.journal:
            drawn = [payload["sampling_params"].get("temperature", 1.0) > 0 for payload in payloads]
            lasting = [index for index in order if not drawn[index]]
            keys = [digest(payloads[index], wanted(index)) for index in lasting]
            self._run_kept(self.journal, keys, payloads, lasting, read, deliver)
            order = [index for index in order if drawn[index]]
        self.coverage += self._ask(payloads, order, lambda index, reply: deliver(index, read(index, reply)))

    def _run_kept(
        self,
        journal: Journal,
        keys: Sequence[str],
        payloads: Payloads,
        order: Sequence[int],
        read: Callable[[int, Reply], Answer],
        deliver: Callable[[int, Answer], None],
    ) -> None:
        """`_run` for the payloads at `order`: what the journal has is not sent; the rest is added to it by slices."""
        known: set[int] = set()
        for answered, coverage, took in journal.kept(keys):
            for place, answer in answered.items():
                deliver(order[place], answer)
            known |= answered.keys()
            self.coverage += coverage
            self.kept_seconds += took
        self.kept_requests += len(known)
        if known:
            logger.info("%d of %d requests were answered earlier: %s", len(known), len(order), journal.path)
        keys = [key for place, key in enumerate(keys) if place not in known]
        order = [index for place, index in enumerate(order) if place not in known]
        slices, start = Slices(payloads.at(order)), 0
        while start < len(order):
            stop = slices.next(start)
            answers: dict[int, Answer] = {}

            def take(index: int, reply: Reply, answers: dict[int, Answer] = answers) -> None:
                answers[index] = read(index, reply)
                deliver(index, answers[index])

            began = time.perf_counter()
            latest = self._ask(payloads, order[start:stop], take)
            seconds = time.perf_counter() - began
            journal.append(keys[start:stop], [answers[index] for index in order[start:stop]], latest, seconds)
            self.coverage += latest
            slices.took(start, stop, seconds)
            start = stop

    def _ask(self, payloads: Payloads, order: Sequence[int], collect: Callable[[int, Reply], None]) -> Coverage:
        """Send the payloads at `order`, hand each reply to `collect`, and say what was computed."""
        if not order:
            return Coverage()

        def collected() -> Iterator[Reply]:
            for place, reply in self.transport.stream(payloads.at(order)):
                collect(order[place], reply)
                yield reply

        before, repeated = account.read_counters(self.info()), self.transport.repeated_tokens
        latest = account.tally(collected(), self.backend)
        if (after := account.read_counters(self.info())) is not None:
            counted = account.coverage_delta(before or {}, after)
            latest = dataclasses.replace(latest, tokens=counted, counted=True)
        elif self.options.uses_sage:
            raise CoverageError(
                "sage_attn was asked for, but the engine does not say what it computed: SGLang does not run our hook"
            )
        if self.options.sage_prefill:
            attention = self.options.attention
            asked_exact = attention is not None and attention.variant == "exact"
            sage_only = self.options.mode == "fidelity" and not asked_exact
            account.check(latest, sage_only=sage_only, repeated=self.transport.repeated_tokens - repeated)
        return latest


def facts(info: Mapping[str, Any]) -> dict[str, str]:
    """`dtype` and `device` that an engine really has; what it was asked for, on a server without our plugin."""
    seen: dict[str, str] = (info.get("internal_states") or [{}])[0].get("sage_eval_model", {})
    return {"dtype": str(info.get("dtype")), "device": str(info.get("device"))} | seen


def open_arm(options: ArmOptions) -> Arm:
    """Start SGLang in this process with `options`, on the GPU if there is one.

    Raises `UsageError` and `PrerequisiteError` for what can be known beforehand, `EngineError` if SGLang fails.
    """
    import torch

    from sage_eval.engine.checks import check_before_start
    from sage_eval.engine.local import LocalEngine

    config = check_before_start(options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = LocalEngine(options.server_args(device), options.environment())
    try:
        return Arm(options, engine, int(config.get_text_config().vocab_size))
    except BaseException:
        engine.close()
        raise
