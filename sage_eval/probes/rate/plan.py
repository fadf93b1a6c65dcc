"""What to measure, and with which server settings, decided before any server is started."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.errors import UsageError
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.rate.load import Load
from sage_eval.probes.residents import fitting, groups
from sage_eval.probes.subject import ENGINE, baseline_of

SLACK_TOKENS = 2048
"""Of the KV cache, for pages that are not full and SGLang's own reserve."""
MIN_REQUESTS = 4
"""However low the rate is and however few its seconds are."""
SEEDS = 10_000
"""From one repeat to the next: more than are tried for one."""


class Plan(BaseModel):
    """A benchmark as asked for. A rate of None sends all requests at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: Path
    arms: tuple[BenchArm, ...]
    baseline: str
    rates: tuple[float | None, ...]
    input_tokens: int = Field(2048, ge=1)
    output_tokens: int = Field(64, ge=1)
    requests: int = Field(128, ge=2)
    seconds: float = Field(30.0, gt=0)
    rehearsal: float = Field(5.0, ge=0)
    running: int = Field(64, ge=1)
    repeats: int = Field(2, ge=1)
    chunk: int | None = None
    load_format: str = "auto"
    model_args: dict[str, Any] = {}
    total: float | None = None
    resident: int | None = Field(None, ge=1)
    seed: int = 0

    def cells(self) -> Iterator[tuple[int, float | None]]:
        """(repeat, rate): every rate once before any is repeated, low rates first."""
        return ((repeat, rate) for repeat in range(self.repeats) for rate in self.rates)

    def load(self, rate: float | None, repeat: int, vocabulary: int) -> Load:
        """What is sent then: other prompts and other gaps between requests in each repeat."""
        asked = self.requests if rate is None else math.ceil(rate * self.seconds)
        return Load(
            rate=rate,
            requests=min(self.requests, max(MIN_REQUESTS, asked)),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            seed=self.seed + SEEDS * repeat,
            vocabulary=vocabulary,
            flush=not self.engine_arguments()["disable_radix_cache"],
        ).near()

    def warm_up(self, vocabulary: int) -> Load:
        """As many at once as run together, so that what is compiled for a size of batch is compiled."""
        few = self.model_copy(update={"requests": min(self.requests, self.running)})
        return few.load(None, self.repeats, vocabulary)

    def rehearse(self, rate: float | None, vocabulary: int) -> Load | None:
        """What a server is sent before its first measured run at a rate; None where that would be hardly anything.

        `rehearsal` seconds of other requests; of all at once twice as many as run together, so that some wait.
        """
        count = 2 * self.running if rate is None else math.floor(rate * self.rehearsal)
        if not self.rehearsal or count < 2:
            return None
        few = self.model_copy(update={"requests": min(self.requests, count), "seconds": self.rehearsal})
        return few.load(rate, self.repeats, vocabulary)

    def cache_tokens(self) -> int:
        """Tokens of as many requests as run together, rounded up."""
        most = min(self.requests, self.running) * (self.input_tokens + self.output_tokens)
        return -(-(most + SLACK_TOKENS) // 1024) * 1024

    def engine_arguments(self) -> dict[str, Any]:
        """Of `ArmOptions.from_arguments`, the same for every arm; `model_args` win.

        Decode runs in CUDA graphs throughout.
        """
        graphs = {"cuda_graph_max_bs_decode": self.running}
        if any("graph" in name and "prefill" not in name for name in self.model_args):
            graphs = {}
        return {
            **ENGINE,
            "max_length": self.input_tokens + self.output_tokens,
            "max_total_tokens": self.cache_tokens(),
            "max_running_requests": self.running,
            "chunked_prefill_size": self.chunk,
            "load_format": self.load_format,
            **graphs,
            **self.model_args,
        }

    def settings(self) -> dict[str, Any]:
        """What decides the numbers: with other ones the results of two calls do not compare."""
        own = ("input_tokens", "output_tokens", "requests", "seconds", "rehearsal", "seed")
        return {"engine": self.engine_arguments(), **{name: getattr(self, name) for name in own}}

    def groups(self, sizes: dict[str, Any]) -> list[list[BenchArm]]:
        """Arms whose servers are up at the same time; `sizes` are those of `shape.describe`."""
        return groups(self.arms, self.baseline, self.resident or fitting(sizes, self.cache_tokens()))


def make_plan(
    model: Path, arms: Sequence[BenchArm], baseline: str | None, rates: Sequence[float | None], **options: Any
) -> Plan:
    """A checked plan. Raises `UsageError` for an unknown baseline or a rate of 0, `PrerequisiteError` for no model."""
    chosen = baseline_of(model, arms, baseline)
    finite = sorted({rate for rate in rates if rate is not None})
    if not rates or any(not 0 < rate < math.inf for rate in finite):
        raise UsageError("--rates: requests a second, over 0 and separated by commas, or inf for all at once")
    ordered = (*finite, *([None] if None in rates else []))
    return Plan(model=model, arms=tuple(arms), baseline=chosen, rates=ordered, **options)
