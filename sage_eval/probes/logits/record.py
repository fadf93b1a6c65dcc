"""`logits.json`: how far each arm's next-token distributions and greedy texts are from the first arm's."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.runs.fidelity import FidelityRecord, TaskFidelity
from sage_eval.runs.files import read_record
from sage_eval.statistics.estimate import Estimate

LOGITS = "logits.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextClass(_Model):
    """What was served of one length class: prompts of `low` to `high` tokens, from `documents` documents."""

    name: str
    low: int
    high: int
    prompts: int
    documents: int
    tokens: int
    positions: int


class Part(_Model):
    """The positions of one length class, or with `low` ≤ tokens of context < `high`; units as in `Fidelity`.

    `nll` is the difference of the true token's negative log-probability, arm − baseline, and `largest` the largest
    |Δ log-probability| of any token, both in nats.
    """

    name: str
    low: int
    high: int
    positions: int
    kld: Estimate
    same_top: Estimate
    delta_p: Estimate
    delta_p_rms: Estimate
    nll: Estimate
    largest: float


class Place(_Model):
    """One position: its KLD in nats, the end of its context, and the tokens with their probabilities in both arms."""

    prompt: int
    document: int
    context_tokens: int
    kld: float
    before: str
    token: str
    token_probability: tuple[float, float]
    most_probable: tuple[str, str]


class LogitDistances(_Model):
    """An arm's distributions against the baseline's.

    `largest` is max |Δ log-probability| over positions and ids in nats, in codes of 16 nats; `largest_true` the same of
    the true token, in full precision. `merged` is the baseline's probability in the cell of ids under e⁻¹⁶, the mean
    over positions and the largest: what the KLD cannot tell apart.
    """

    fidelity: TaskFidelity
    by_length: list[Part]
    by_position: list[Part]
    largest: float
    largest_true: float
    merged: tuple[float, float]
    worst: list[Place]


class GeneratedText(_Model):
    """Greedy continuations against the baseline's.

    `exact` is the share of the same token ids, `similarity` 1 − Levenshtein distance / longer length in characters,
    `first_difference` the index of the first other token by prompt, None where there is none.
    """

    prompts: int
    tokens: int
    exact: Estimate
    similarity: Estimate
    first_difference: list[int | None]


class ArmLogits(_Model):
    """One arm; the baseline has neither `distances` nor `generated`, nor has an arm with an `error`."""

    name: str
    arguments: dict[str, Any]
    backend: str | None = None
    engine: dict[str, Any] = Field(default_factory=dict)
    coverage: dict[str, float] = Field(default_factory=dict)
    start_seconds: float | None = None
    seconds: float | None = None
    distances: LogitDistances | None = None
    generated: GeneratedText | None = None
    error: str | None = None


class LogitsRecord(_Model):
    """The whole file."""

    schema_version: Literal[1] = 1
    kind: Literal["logits"] = "logits"
    created: str
    command: str
    model: dict[str, Any]
    source: str
    """`attention.source.source_hash()`."""
    seed: int
    settings: dict[str, Any]
    texts: str
    vocabulary: int
    resolution: float
    """Nats between two stored log-probabilities."""
    classes: list[TextClass]
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]
    arms: list[ArmLogits] = Field(default_factory=list)

    @property
    def baseline(self) -> str:
        """The first arm's name."""
        return self.arms[0].name

    @property
    def compared(self) -> list[tuple[str, ArmLogits, LogitDistances]]:
        """The arms that have distances, with their names."""
        return [(arm.name, arm, arm.distances) for arm in self.arms if arm.distances]

    @property
    def fidelity(self) -> FidelityRecord:
        """The distances as `compare` has them."""
        tasks = [found.fidelity for _, _, found in self.compared]
        return FidelityRecord(schema_version=1, baseline=self.baseline, tasks=tasks)


def read(path: Path) -> LogitsRecord:
    """The record in `path`; `DataError` where it is missing, damaged, or of another version."""
    return read_record(LogitsRecord, path)
