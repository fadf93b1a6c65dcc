"""A row of `logits.json`: how far an arm's next-token distributions and greedy texts are from the baseline's.

A row keeps statistics, since the distributions themselves are too large to keep.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict

from sage_eval.measure.base import Row
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.fidelity import Fidelity
from sage_eval.store.fidelity import TaskFidelity


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

    @classmethod
    def of(cls, name: str, low: int, high: int, found: Fidelity, largest: float) -> Self:
        """What the table of a part has of all statistics."""
        return cls(
            name=name, low=low, high=high, positions=found.positions, kld=found.kld, same_top=found.same_top,
            delta_p=found.delta_p, delta_p_rms=found.delta_p_rms, nll=found.log_perplexity, largest=largest,
        )  # fmt: skip


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


class Served(_Model):
    """What every arm was asked: ids in the vocabulary, and nats between two stored log-probabilities."""

    vocabulary: int
    resolution: float
    classes: list[TextClass]


class Logits(Row):
    """One arm; the baseline has neither `distances` nor `generated`."""

    backend: str | None
    seconds: float | None
    served: Served
    distances: LogitDistances | None = None
    generated: GeneratedText | None = None
