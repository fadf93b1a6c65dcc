"""What SGLang's load generator sends, and what it found.

The generator draws the gaps between requests (a Poisson process) from a seed. With a few dozen requests the rate that
comes of it may be far from the rate asked for, so the same gaps are drawn here: to choose a seed by, and to judge a
server by what it was sent.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from sage_eval.errors import EngineError
from sage_eval.probes.rate.record import Result, label

TOLERANCE_SECONDS = 0.05
"""By which a run may seem shorter than its own pauses: clocks differ, draws differ by more."""

NEAR = 0.02
"""Share by which the rate that gaps come to, or that a late generator sends, may differ from the rate asked for."""

ENOUGH = {"p95": 100, "p99": 500}
"""Values that a quantile takes: five lie beyond it. With fewer it is the largest, or chance between the two largest."""


class Load(BaseModel):
    """Requests of random token ids, all of one length: `rate` a second, or all at once (None)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float | None
    requests: int
    input_tokens: int
    output_tokens: int
    seed: int
    vocabulary: int
    flush: bool = False
    """Whether to empty the prefix cache first: the generator warms up with the first of the prompts."""

    def arguments(self, url: str, words: Path, output: Path) -> list[str]:
        """Of `python -m sglang.bench_serving`; `words` is the folder of a tokenizer, `output` a file to append to."""
        return [
            "--backend", "sglang", "--base-url", url, "--model", str(words), "--tokenizer", str(words),
            "--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1",
            "--random-input-len", str(self.input_tokens), "--random-output-len", str(self.output_tokens),
            "--num-prompts", str(self.requests), "--request-rate", "inf" if self.rate is None else repr(self.rate),
            "--seed", str(self.seed), "--output-file", str(output), "--output-details", "--disable-tqdm",
            *(["--flush-cache"] if self.flush else []),
        ]  # fmt: skip

    def arrivals(self) -> list[float]:
        """Seconds after the first request at which each is sent, and, last, at which the generator stops sending."""
        if self.rate is None:
            return [0.0] * (self.requests + 1)
        draw = np.random.RandomState(self.seed)
        # Lengths and first token ids are drawn first, and move the generator on by as much as their ranges take.
        for low, high in (
            (self.input_tokens, self.input_tokens + 1), (self.output_tokens, self.output_tokens + 1),
            (0, self.vocabulary),
        ):  # fmt: skip
            draw.randint(low, high, size=self.requests)
        gaps = [draw.exponential(1.0 / self.rate) for _ in range(self.requests)]
        return [0.0, *np.cumsum(gaps).tolist()]

    def near(self) -> "Load":
        """The same with the first seed from this one on whose gaps come to the rate asked for, within `NEAR`."""
        if self.rate is None:
            return self
        seeds = (self.model_copy(update={"seed": seed}) for seed in itertools.count(self.seed))
        return next(load for load in seeds if abs(sent(load.arrivals()[:-1]) / self.rate - 1) <= NEAR)

    def result(self, found: Mapping[str, Any]) -> Result:
        """The generator's line of JSON as a result.

        Raises `EngineError` where a request failed. The generator counts one as completed that the server refused
        within its stream: no token came of it, or too few.
        """
        failures = list(map(self._failure, *(found[name] for name in ("errors", "ttfts", "output_lens"))))
        if reasons := [reason for reason in failures if reason]:
            raise EngineError(f"{len(reasons)} of {len(failures)} requests failed, {label(self.rate)}: {reasons[0]}")
        seconds, sending = float(found["duration"]), self.arrivals()[-1]
        if len(failures) != self.requests or seconds < sending - TOLERANCE_SECONDS:
            raise EngineError(
                f"SGLang's load generator sent {len(failures)} requests within {seconds:.2f} s, where {self.requests} "
                f"take {sending:.2f} s: this version of SGLang draws its requests in another way"
            )
        latency = [ttft + sum(gaps) for ttft, gaps in zip(found["ttfts"], found["itls"], strict=True)]
        return Result(
            seconds=seconds,
            input_tokens=sum(found["input_lens"]),
            output_tokens=sum(found["output_lens"]),
            ttft=[round(value, 6) for value in found["ttfts"]],
            latency=[round(value, 6) for value in latency],
            itl=quantiles([gap for gaps in found["itls"] for gap in gaps]),
        )

    def _failure(self, error: str, ttft: float, tokens: int) -> str | None:
        if error:
            return error.strip().splitlines()[-1]
        if ttft <= 0:
            return "no token came of it; the server's log may say why"
        if tokens != self.output_tokens:
            return f"{tokens} of {self.output_tokens} tokens came of it; the server's log may say why"
        return None


def sent(arrivals: Sequence[float]) -> float:
    """Requests a second, from the first to the last."""
    return (len(arrivals) - 1) / arrivals[-1]


def quantiles(values: list[float]) -> dict[str, float]:
    """Mean and p50 of `values`, p95 and p99 where there are enough; empty without any."""
    if not values:
        return {}
    p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99))
    found = {"mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95), "p99": float(p99)}
    return known(found, len(values))


def known(found: Mapping[str, float], count: int) -> dict[str, float]:
    """What of the quantiles `found` can be told of `count` values."""
    return {name: value for name, value in found.items() if count >= ENOUGH.get(name, 0)}
