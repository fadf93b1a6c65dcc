"""What is sent to each server, decided before any is started."""

import itertools
import math
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from sage_eval.measure.base import Arms, SpeedPlan

MIN_REQUESTS = 4
"""However low the rate is and however few its seconds are."""
SEEDS = 10_000
"""From one repeat to the next: more than are tried for one."""
NEAR = 0.02
"""Share by which the gaps of a seed may miss the rate asked for, and by which a late load generator may miss them."""


def _rates(text: str) -> tuple[float | None, ...]:
    try:
        asked = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        asked = []
    if not asked or any(math.isnan(rate) or rate <= 0 for rate in asked):
        raise ValueError("write numbers over 0, requests per second, separated by commas, or inf for all at once")
    return tuple(None if math.isinf(rate) else rate for rate in asked)


Rates = Annotated[tuple[float | None, ...], BeforeValidator(_rates)]


class Load(NamedTuple):
    """`requests` at `rate` per second, or all at once (None); `seed` is that of the prompts and of the gaps."""

    rate: float | None
    repeat: int
    requests: int
    seed: int

    @property
    def seconds(self) -> float:
        """In which they are sent, about."""
        return self.requests / self.rate if self.rate else 0.0


class RatePlan(SpeedPlan):
    """What the benchmark is asked. Rates ascend; None sends all requests at once."""

    arms: Arms = Field(
        "triton,sage_attn", validate_default=True, description=SpeedPlan.model_fields["arms"].description
    )
    rates: Rates = Field(
        "1,2,4,8,16,inf", validate_default=True,
        description="requests per second, separated by commas; inf for all at once",
    )  # fmt: skip
    input_tokens: int = Field(2048, ge=1, description="prompt tokens of each request")
    output_tokens: int = Field(64, ge=1, description="new tokens of each request")
    requests: int = Field(128, ge=2, description="at most, for each rate")
    seconds: float = Field(30.0, ge=0.1, description="of each rate, about: fewer requests are sent at a low one")
    rehearsal: float = Field(5.0, ge=0, description="seconds of unmeasured requests before each rate; 0 for none")
    running: int = Field(64, ge=1, description="requests that a server works on at once; the KV cache holds as many")
    repeats: int = Field(2, ge=1, description="times to measure each rate, with other requests")
    seed: int = Field(0, ge=0, description="of prompts and of the gaps between requests")

    def loads(self) -> dict[str, Load]:
        """By cell: every rate once before any is repeated, low rates first; other requests in each repeat."""
        return {
            f"{label(rate)}, repeat {repeat + 1}": self._load(rate, repeat, self.requests, self.seconds)
            for repeat in range(self.repeats)
            for rate in self.rates
        }

    def warm_up(self) -> Load:
        """As many at once as run together, so that what is compiled for a batch size is compiled."""
        return self._load(None, self.repeats, min(self.requests, self.running), self.seconds)

    def rehearse(self, rate: float | None) -> Load | None:
        """What a server is sent before its first measured run at a rate; None where that would be hardly anything.

        `rehearsal` seconds of other requests; of all at once twice as many as run together, so that some wait.
        """
        count = 2 * self.running if rate is None else math.floor(rate * self.rehearsal)
        if not self.rehearsal or count < 2:
            return None
        return self._load(rate, self.repeats, min(self.requests, count), self.rehearsal)

    def _load(self, rate: float | None, repeat: int, most: int, seconds: float) -> Load:
        asked = most if rate is None else math.ceil(rate * seconds)
        requests = min(most, max(MIN_REQUESTS, asked))
        seed = self.seed + SEEDS * repeat
        return Load(rate, repeat, requests, seed if rate is None else near(seed, requests))


def gaps(seed: int, requests: int) -> npt.NDArray[np.float64]:
    """Between the requests of a Poisson process of one per second, [requests - 1] in seconds."""
    return np.random.RandomState(seed).exponential(size=requests - 1)


def near(seed: int, requests: int) -> int:
    """The first seed from this one on whose gaps come to the rate asked for, within `NEAR`."""
    return next(s for s in itertools.count(seed) if abs(1 / gaps(s, requests).mean() - 1) <= NEAR)


def label(rate: float | None) -> str:
    """A rate in words: `4/s`, `all at once`."""
    return "all at once" if rate is None else f"{rate:g}/s"
