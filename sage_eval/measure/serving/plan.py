"""What `bench serving` is asked, and what work that makes: cells, their requests, and the engines that hold them.

A *cell* is a kind of work and a size:

    prefill/L    one prompt of L tokens, one new token: time to first token
    packed/L     as many prompts of L tokens at once as make up `packed_tokens`, one new token each: throughput
    decode/B     B sequences at once, after a prompt of `decode_context` tokens each: time between tokens
    mixed/N      N requests of mixed lengths (`mix`), all handed over at once: time until the last is answered
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from sage_eval.arms.spec import parse_arms
from sage_eval.measure.base import Arms, SpeedPlan

PROFILED_STEPS = 17
"""Decode steps of a profile: enough to average over, and a trace of some megabytes."""
LONG = 32768
"""Longer prompts come last: what is cheap is measured even where the time runs out."""
PROMPTS, ANSWERS = (128, 8192), (16, 256)
"""Shortest and longest of a mix, in tokens."""
_MIX_SEED = 0


class Cell(NamedTuple):
    """One kind of work at one size; `prefill/1024` as text."""

    kind: str
    size: int

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """The cell of a row."""
        kind, _, size = name.partition("/")
        return cls(kind, int(size))

    def __str__(self) -> str:
        return f"{self.kind}/{self.size}"


def mix(requests: int, positions: int | None = None) -> list[tuple[int, int]]:
    """(prompt, answer) tokens of requests as an evaluation or a server has them: many short ones, a few long ones.

    Each is drawn log-uniformly and independently, and both together are at most the `positions` of the model, if known.
    The number of requests fixes the lengths, so that every round, arm and command has the same work.
    """
    import numpy as np

    draws = np.random.default_rng(_MIX_SEED).random((requests, 2))
    low, high = np.array([PROMPTS, ANSWERS], dtype=float).T
    sizes = np.rint(low * (high / low) ** draws).astype(int)
    longest = np.maximum(1, (positions or PROMPTS[1] + ANSWERS[1]) - sizes[:, 1])
    return [(int(min(prompt, most)), int(answer)) for (prompt, answer), most in zip(sizes, longest, strict=True)]


def _sizes(given: Any) -> tuple[int, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    try:
        sizes = sorted({int(part) for part in parts if str(part).strip()})
    except (TypeError, ValueError):
        sizes = [0]
    if sizes and sizes[0] < 1:
        raise ValueError("whole numbers of 1 and more, separated by commas, are needed")
    return tuple(sizes)


Sizes = Annotated[tuple[int, ...], BeforeValidator(_sizes)]


class ServingPlan(SpeedPlan):
    """A benchmark as asked for."""

    arms: Arms = Field(tuple(parse_arms("triton,sage_attn")), description=SpeedPlan.model_fields["arms"].description)
    lengths: Sizes = Field((128, 1024, 4096, 8192, 32768, 131072), description="input tokens")
    batches: Sizes = Field((1, 8, 32, 128), description="sequences decoded at once; '' for none")
    packed_tokens: int = Field(16384, ge=0, description="prompts of one length at once, up to so many tokens")
    decode_context: int = Field(256, ge=1, description="prompt tokens of each decoded sequence")
    decode_steps: int = Field(65, ge=3, description="new tokens of each decoded sequence")
    mixed: int = Field(64, ge=0, description="requests of mixed lengths, all at once; 0 for none")
    seconds: float = Field(10.0, ge=0.1, description="for each cell, all arms together; one round in any case")
    longest: float = Field(30.0, ge=0.1, description="skip a run of more seconds; one of ten times as many has failed")
    profile: float = Field(15.0, ge=0, description="profile runs of up to so many seconds, after timing; 0 for none")
    memory_only: bool = Field(False, description="run each prompt once, for the memory it takes; time nothing")
    positions: int | None = Field(None, exclude=True)
    """The model's longest sequence, where its configuration says it."""

    def cells(self) -> list[Cell]:
        """Short prompts, packed ones, decode, a mix, then the long prompts; for memory alone, prompts."""
        if self.memory_only:
            return [Cell("prefill", n) for n in self.lengths]
        short = [n for n in self.lengths if n <= LONG]
        return [
            *(Cell("prefill", n) for n in short),
            *(Cell("packed", n) for n in short if self.packed_tokens // n >= 2),
            *(Cell("decode", n) for n in self.batches),
            *(Cell("mixed", n) for n in [self.mixed] if n),
            *(Cell("prefill", n) for n in self.lengths if n > LONG),
        ]

    def sizes(self, cell: Cell) -> list[tuple[int, int]]:
        """(prompt, new) tokens of each request that is handed over at once."""
        match cell.kind:
            case "packed":
                return [(cell.size, 1)] * (self.packed_tokens // cell.size)
            case "decode":
                return [(self.decode_context, self.decode_steps)] * cell.size
            case "mixed":
                return mix(cell.size, self.positions)
        return [(cell.size, 1)]

    def amount(self, cell: Cell) -> dict[str, Any]:
        """`cell`, `requests`, `tokens` and `new_tokens` of a row."""
        sizes = self.sizes(cell)
        amount = {"cell": str(cell), "requests": len(sizes)}
        if cell.kind == "mixed":
            prompts, answers = (sum(each) for each in zip(*sizes, strict=True))
            return amount | {"tokens": prompts, "new_tokens": answers}
        return amount | {"tokens": self.decode_steps - 1 if cell.kind == "decode" else cell.size}

    def command(self, cell: Cell, *, profiled: bool = False) -> dict[str, Any]:
        """What a worker is asked to run, its seed aside."""
        sizes = self.sizes(cell)
        if cell.kind == "mixed":
            return {"mix": sizes}
        length, new = sizes[0]
        return {"requests": len(sizes), "length": length, "new_tokens": min(new, PROFILED_STEPS) if profiled else new}


MIN_LENGTHS = 4
"""Three unknowns, and one length more, so that the fit is not exact by construction."""


def predict(known: Mapping[int, float], size: int) -> float | None:
    """Seconds for `size` tokens, from {tokens: seconds}; None where nothing shorter was measured.

    The two longest known sizes give t = a·n + b·n². Where noise makes one of them negative it counts as nothing.
    """
    if size in known:
        return known[size]
    shorter = sorted(n for n in known if n < size)
    if not shorter:
        return None
    last = shorter[-1]
    rate, quadratic = known[last] / last, 0.0
    if len(shorter) > 1:
        before = shorter[-2]
        quadratic = max(0.0, (rate - known[before] / before) / (last - before))
    linear = max(0.0, rate - quadratic * last)
    return max(known[last], linear * size + quadratic * size**2)


def predict_mix(
    sizes: Sequence[tuple[int, int]], prefill: Mapping[int, float], decode: Mapping[int, float]
) -> float | None:
    """Seconds for requests of (prompt, new) tokens at once, at most about; None where no prefill was measured.

    Prompts are taken to be computed one by one, and then all requests to be decoded together, as long as the longest.
    """
    if not prefill:
        return None
    shortest = min(prefill)
    prompts = sum(predict(prefill, max(prompt, shortest)) or 0.0 for prompt, _ in sizes)
    step = predict(decode, max(len(sizes), min(decode))) or 0.0 if decode else 0.0
    return prompts + step * max(new for _, new in sizes)


def quadratic_share(known: Mapping[int, float]) -> dict[int, float]:
    """Tokens → the share of their time that grows with the square of the length: attention's, without a profiler.

    t = c + a·n + b·n² with none of them negative, fitted to {tokens: seconds} with equal relative weights (Lawson and
    Hanson's NNLS). Empty with fewer than `MIN_LENGTHS` lengths.
    """
    if len(known) < MIN_LENGTHS:
        return {}
    import numpy as np
    from scipy.optimize import nnls

    sizes = np.array(sorted(known), dtype=float)
    times = np.array([known[int(n)] for n in sizes])
    scale = sizes.max()
    terms = np.stack([np.ones_like(sizes), sizes / scale, (sizes / scale) ** 2], axis=1)
    weights, _ = nnls(terms / times[:, None], np.ones_like(sizes))
    parts = terms * weights
    return {int(n): float(part[2] / part.sum()) for n, part in zip(sizes, parts, strict=True)}
