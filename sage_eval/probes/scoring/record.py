"""`scoring.json`: how fast evaluations are, part by part.

*evaluation*: the same tasks through several lm-eval models on the same weights, one process each. *rate*: scoring of
long prompts against the same engine's plain prefill of them. *client*: memory of the client over numbers of requests.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.errors import UsageError
from sage_eval.runs.files import read_record

SCORING = "scoring.json"
Part = Literal["evaluation", "rate", "client"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Seconds(_Model):
    """Where the time of one task went; `request` is that of lm-eval's call of the model, the three below it its parts.

    `scoring` runs from the first request handed to the engine to its last answer.
    """

    load: float
    build: float
    request: float
    tokenise: float
    scoring: float
    after: float
    metrics: float

    @property
    def whole(self) -> float:
        """All of it, the engine's start aside."""
        return self.load + self.build + self.request + self.metrics


class Agreement(_Model):
    """A column's answers beside the reference column's, item by item."""

    reference: str
    equal: bool
    """By the rule of `agreement` for such answers."""
    score_difference: float
    tolerance: float
    """Of `score_difference`; for choices, in nats, of `widest` and `mean_difference`."""
    same_answers: float
    """Share of items with the same choice or text; 1.0 for texts that are only scored."""
    turned: int | None = None
    """Items with another choice or text."""
    widest: float | None = None
    """The reference's largest lead over a choice that it did not make and this column did, in nats."""
    mean_difference: float | None = None
    """Of log-probabilities, absolute, in nats a request; None for generation."""
    largest_difference: float | None = None


class Task(_Model):
    """One task through one model; `error` where there is no result."""

    items: int = 0
    requests: int = 0
    seconds: Seconds | None = None
    score: float | None = None
    metric: str | None = None
    tokens: dict[str, int] = Field(default_factory=dict)
    """`prompt`, `cached`, `generated`, where the model counts them."""
    agreement: Agreement | None = None
    error: str | None = None

    @property
    def rate(self) -> float | None:
        """Items a second, from the first request sent to the last answer."""
        return self.items / self.seconds.scoring if self.seconds else None

    def end_to_end(self, start: float) -> float | None:
        """Items a second with everything, the engine's start of `start` seconds too, as if run alone."""
        return self.items / (start + self.seconds.whole) if self.seconds else None


class Column(_Model):
    """One lm-eval model; `absent` says why it was not run, `error` why it broke off."""

    model: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    start_seconds: float | None = None
    warm_up_seconds: float | None = None
    tasks: dict[str, Task] = Field(default_factory=dict)
    absent: str | None = None
    error: str | None = None


class Pass(_Model):
    """One pass over the prompts: its time, and the prompt tokens that the engine computed."""

    seconds: float
    computed_tokens: int
    cached_tokens: int

    @property
    def rate(self) -> float:
        """Uncached tokens a second."""
        return self.computed_tokens / self.seconds

    @property
    def cached(self) -> float:
        """Share of the prompt tokens that came from the prefix cache."""
        return self.cached_tokens / (self.computed_tokens + self.cached_tokens)


class Round(_Model):
    """The same prompts, `plain`: one new token without log-probabilities, and `scored`: four answers each."""

    plain: Pass
    scored: Pass


class Rate(_Model):
    """One arm's engine in one mode. `share` is the median over rounds of scored rate / plain rate."""

    arguments: dict[str, Any]
    start_seconds: float | None = None
    engine: dict[str, Any] = Field(default_factory=dict)
    prompts: int
    rounds: list[Round] = Field(default_factory=list)
    share: float | None = None
    error: str | None = None


class Client(_Model):
    """Bytes of a client process that scored `requests` short requests with an engine that answers at once."""

    requests: int
    seconds: float
    base: int
    """Resident before there was any request."""
    held: int
    """Resident with all requests made and none sent."""
    peak: int
    """Highest while they were scored."""
    result: int
    """Of all results together, as Python counts them."""

    @property
    def overhead(self) -> int:
        """What was needed beyond the requests and their results."""
        return self.peak - self.held - self.result


class Record(_Model):
    """The whole file."""

    schema_version: Literal[1] = 1
    created: str
    command: str
    model: dict[str, Any]
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]
    code: str
    """SHA-256 of the attention code that ran."""
    evaluation: dict[str, Column] = Field(default_factory=dict)
    rate: dict[str, Rate] = Field(default_factory=dict)
    client: list[Client] = Field(default_factory=list)


def read(path: Path) -> Record:
    """The record in `path`; `DataError` where it is missing, damaged, or of another version."""
    return read_record(Record, path)


def beside(path: Path, new: Record, parts: list[Part]) -> Record:
    """`new` with what `path` holds of the parts that are not measured now.

    Raises `UsageError` where that is of another model or machine.
    """
    if not path.exists():
        return new
    old = read(path)
    for name in ("model", "devices", "versions", "code"):
        if getattr(old, name) != getattr(new, name):
            raise UsageError(f"{path} was measured with other {name}: choose another --output or delete it")
    kept: dict[str, Any] = {name: getattr(old, name) for name in ("evaluation", "rate", "client") if name not in parts}
    kept["settings"] = old.settings | new.settings
    return new.model_copy(update=kept)
