"""Asking a server everything that `quick` judges, part by part, within the seconds there are."""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from sage_eval import __version__
from sage_eval.arms.engine import engine_info
from sage_eval.engine import coverage as account
from sage_eval.engine.arm import Arm, facts
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import Payload, ScoreRequest
from sage_eval.engine.server import SETTINGS, ServerEngine, open_server
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError
from sage_eval.measure.determinism.instrument import WAYS
from sage_eval.measure.determinism.ways import against, serve
from sage_eval.measure.quick import texts
from sage_eval.measure.quick.record import Logprobs, QuickRecord, Retrieval, Speed
from sage_eval.measure.serving.worker import run

Say = Callable[[str], None]

TEXTS, TEXT_TOKENS, TOP, NEW_TOKENS = 4, 256, 20, 16
SIZES = {"small": 128, "medium": 1024, "large": 8192}
TOGETHER, RUNS, STEPS = 8, 5, 32
LONGEST_RETRIEVAL, DEPTHS, SAMPLES = 32_768, (0.1, 0.5, 0.9), 2
GROWTH = 3.0
"""The next size is begun where so many times the last one's seconds are left."""
SHARES = {"logprobs": 0.2, "determinism": 0.45, "speed": 0.7, "retrieval": 1.0}
"""Each part ends at such a share of all seconds; what one leaves over is the next one's."""
RETRIES = 4
_OWN = 64
"""Tokens of the window left free for SGLang and for answers."""


class Asking:
    """One `quick` at work: `record` fills, part by part."""

    def __init__(self, url: str, seconds: float, say: Say) -> None:
        self._started, self._seconds, self._say = time.monotonic(), seconds, say
        probe = ServerEngine(url, retries=1, silence=max(10.0, seconds))
        try:
            probe.ask(lambda client: client.do("GET", "/health_generate"))
            info = probe.info()
        finally:
            probe.close()
        name = str(info.get("served_model_name") or info.get("model_path"))
        self.arm: Arm = open_server(
            ArmOptions(model=name), url, connections=TOGETHER, silence=max(10.0, seconds), retries=RETRIES
        )
        # Others may use the server meanwhile: its tokens need not be ours alone.
        self.arm.options = self.arm.options.model_copy(update={"engine": {}})
        assert isinstance(self.arm.transport, ServerEngine)
        self._tokenizer = texts.ServerTokenizer(
            self.arm.transport, str(info.get("tokenizer_path") or info.get("model_path"))
        )
        self._before = account.read_counters(info) or {}
        self.record = QuickRecord(
            created=datetime.now(UTC).replace(microsecond=0).isoformat(), sage_eval=__version__, server=_server(info),
        )  # fmt: skip
        self.record.memory = _memory(info)

    def run(self) -> QuickRecord:
        """Ask everything."""
        parts = {
            "logprobs": self._logprobs, "determinism": self._determinism, "speed": self._speed,
            "retrieval": self._retrieval,
        }  # fmt: skip
        for name, part in parts.items():
            self._until = self._started + SHARES[name] * self._seconds
            self._say(f"{name} ({time.monotonic() - self._started:.0f} of at most {self._seconds:.0f} s)")
            if self._left() <= 0:
                self.record.missing[name] = "no time was left"
                continue
            try:
                part()
            except EngineError as error:
                self.record.failed[name] = str(error)
                if self._told() is None:
                    break
            except SageEvalError as error:
                self.record.missing[name] = str(error)
        if (info := self._told()) is not None:
            self.record.coverage = account.coverage_delta(self._before, account.read_counters(info) or {})
        self.record.seconds = round(time.monotonic() - self._started, 1)
        return self.record

    def close(self) -> None:
        """Close the connections."""
        self.arm.close()

    def _told(self) -> dict[str, Any] | None:
        """The server's info; None where it is gone, which is noted."""
        try:
            return None if "end" in self.record.failed else self.arm.info()
        except SageEvalError as error:
            self.record.failed["end"] = str(error)
            return None

    def _left(self) -> float:
        return self._until - time.monotonic()

    def _in_time(self, sizes: list[Any], growth: float) -> Iterator[Any]:
        """Those of `sizes` that are likely to end in time, each taking `growth` times the last; the first always."""
        last = 0.0
        for size in sizes:
            if growth * last > self._left():
                return
            started = time.monotonic()
            yield size
            last = time.monotonic() - started

    def _logprobs(self) -> None:
        prompts = texts.windows(self._tokenizer, TEXTS, min(TEXT_TOKENS, self.arm.usable_tokens - _OWN))
        scores = self.arm.score([ScoreRequest(prompt[:1], prompt[1:]) for prompt in prompts], top=TOP)
        tops = [score.top.logprobs.astype(float) for score in scores if score.top is not None]
        pairs = zip(tops, scores, strict=True)
        over = sum(int((np.array(score.logprobs) > top[:, 0] + 1e-4).sum()) for top, score in pairs)
        apart = np.abs(np.concatenate([self._decoded(prompt) for prompt in prompts]))
        self.record.logprobs = Logprobs(
            prompts=hashlib.sha256(np.concatenate(prompts).astype("<i4").tobytes()).hexdigest(),
            values=[[round(value, 5) for value in score.logprobs] for score in scores],
            top=TOP,
            listed_mass=max(float(np.exp(top).sum(axis=1).max()) for top in tops),
            whole_mass=self._whole_mass(prompts[:2]),
            inversions=over,
            decoded_mean=float(apart.mean()),
            decoded_largest=float(apart.max()),
        )

    def _decoded(self, prompt: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Log-probabilities of greedy tokens as they were decoded, minus those when they are read as a prompt."""
        payload: Payload = {
            "input_ids": list(prompt), "return_logprob": True, "logprob_start_len": -1,
            "sampling_params": {"max_new_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True},
        }  # fmt: skip
        [(_, reply)] = self.arm.transport.stream([payload])
        try:
            values = [(float(value), int(token)) for value, token, *_ in reply["meta_info"]["output_token_logprobs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"SGLang's reply lacks the log-probabilities of its own tokens ({error!r})") from error
        [read] = self.arm.score([ScoreRequest(prompt, tuple(token for _, token in values))], greedy=False)
        return np.subtract([value for value, _ in values], read.logprobs)

    def _whole_mass(self, prompts: list[tuple[int, ...]]) -> list[float]:
        """Sums of the probabilities of all tokens after each prompt; none where their number is not known here."""
        size = _vocabulary(str(self.record.server["model_path"]))
        if size is None:
            return []
        payloads: list[Payload] = [
            {
                "input_ids": list(prompt), "return_logprob": True, "logprob_start_len": -1,
                "token_ids_logprob": list(range(size)), "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            }
            for prompt in prompts
        ]  # fmt: skip
        metas = [reply["meta_info"] for _, reply in self.arm.transport.stream(payloads)]
        listed = [meta["output_token_ids_logprobs"][0] for meta in metas]
        return [float(np.exp([entry[0] for entry in entries]).sum()) for entries in listed]

    def _determinism(self) -> None:
        try:
            self.arm.flush_cache()
        except SageEvalError as error:
            raise PrerequisiteError(f"the server's prefix cache cannot be emptied: {error}") from error
        prompts = texts.windows(self._tokenizer, TEXTS, min(TEXT_TOKENS, self.arm.usable_tokens - _OWN))
        whole = serve(self.arm, prompts, "whole", NEW_TOKENS)
        chosen = [way for way in WAYS if way not in ("whole", "chunked")]
        # A rank has a cache of its own, and nobody knows which one a prompt goes to.
        if self.record.server.get("disable_radix_cache") or int(self.record.server.get("dp_size") or 1) > 1:
            chosen.remove("prefix")
        for way in self._in_time(chosen, 1.0):
            try:
                self.record.determinism.append(against(whole, serve(self.arm, prompts, way, NEW_TOKENS), way))
            except EngineError as error:
                self.arm.info()  # raises where the server is gone
                raise PrerequisiteError(f"{error}: is the server used by others meanwhile?") from error

    def _speed(self) -> None:
        [ids] = texts.windows(self._tokenizer, 1, LONGEST_RETRIEVAL)
        fitting = {name: size for name, size in SIZES.items() if size + STEPS + _OWN <= self.arm.usable_tokens}
        if not fitting:
            raise PrerequisiteError(f"the server takes {self.arm.usable_tokens} tokens, fewer than a small input has")
        # Random tokens, each time others, so that no run finds another one's prefix in the cache.
        common = {"vocabulary": max(ids) + 1}

        def timed(length: int, requests: int, new: int) -> float:
            command = {**common, "length": length, "requests": requests, "new_tokens": new}
            return run(self.arm, {**command, "seed": secrets.randbits(32)})

        for name in self._in_time(list(fitting), GROWTH):
            size = fitting[name]
            timed(size, 1, 1)  # kernels that are compiled for a new size
            together = self._together(size + STEPS)
            speed = Speed(size=name, input_tokens=size, first=[], together=together)
            self.record.speed.append(speed)
            for _ in range(RUNS):
                speed.first.append(timed(size, 1, 1))
                if self._left() < 0:
                    return
            for new in (1, STEPS):
                if together and self._left() > GROWTH * together * speed.first[-1]:
                    seconds = timed(size, together, new)
                    if new == 1:
                        speed.prefill = together * size / seconds
                    else:
                        speed.decode = together / seconds

    def _together(self, tokens: int) -> int:
        """Requests of so many tokens that the server runs at once, up to `TOGETHER`."""
        told = self.record.server
        limits = [told.get("max_running_requests"), int(told.get("max_total_num_tokens") or 0) // tokens]
        return min(TOGETHER, *(int(limit) for limit in limits if limit is not None))

    def _retrieval(self) -> None:
        lengths = [1024 << step for step in range(6) if 1024 << step <= self.arm.usable_tokens - _OWN]
        fitting = [length for length in lengths if length <= LONGEST_RETRIEVAL]
        if not fitting:
            raise PrerequisiteError(f"the server takes {self.arm.usable_tokens} tokens, too few to hide a number in")
        for length in self._in_time(fitting, GROWTH):
            made = [texts.needle(length, *place, self._tokenizer) for place in product(DEPTHS, range(SAMPLES))]
            documents = [document for document in made if document]
            payloads: list[Payload] = [
                {
                    "input_ids": self._tokenizer(f"{document['input']} {document['gen_prefix']}")["input_ids"],
                    "sampling_params": {"max_new_tokens": 32, "temperature": 0.0, "stop": ["\n", "."]},
                }
                for document in documents
            ]
            replies = dict(self.arm.transport.stream(payloads))
            hits = [texts.found(document, replies[place]["text"]) for place, document in enumerate(documents)]
            self.record.retrieval.append(Retrieval(length=length, asked=len(hits), found=sum(hits)))


def _server(info: dict[str, Any]) -> dict[str, Any]:
    names = ("model_path", "served_model_name", "weight_version", "architectures", "quantization", "dp_size", "pp_size")
    told = {name: info[name] for name in names if info.get(name) is not None}
    settings = (info.get("internal_states") or [{}])[0].get(SETTINGS)
    return {**told, **engine_info(info), **facts(info), **({"sage_attn": settings} if settings else {})}


def _memory(info: dict[str, Any]) -> dict[str, float]:
    """GB of weights, KV cache and graphs, summed over ranks; what was free before is no use of it."""
    totals: dict[str, float] = {}
    for state in info["internal_states"]:
        for name, value in (state.get("memory_usage") or {}).items():
            parts = {f"{name}/{phase}": part for phase, part in value.items()} if isinstance(value, dict) else {}
            for part, size in (parts or {name: value}).items():
                if isinstance(size, int | float) and not any(word in part for word in ("capacity", "available")):
                    totals[part] = round(totals.get(part, 0.0) + size, 3)
    return totals


def _vocabulary(model: str) -> int | None:
    """The number of token ids, where the model's configuration lies here as well."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        return int(config.get_text_config().vocab_size)
    except (OSError, ValueError, AttributeError):
        return None
