"""The rows of `scoring.json`: one task through one lm-eval model, one round of an engine, or one client."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.measure.base import Row
from sage_eval.statistics.changes import NEAR_TIE

PartName = Literal["evaluation", "rate", "client"]
Answers = dict[str, list[float] | str]
"""Document → log-probabilities of its choices or of its text in nats, or the generated text."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Seconds(_Model):
    """Where the time of one task went. `request` is lm-eval's call of the model; the three below it are its parts.

    `scoring` runs from the first request that the engine gets to its last answer.
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
        """All of it without the engine's start."""
        return self.load + self.build + self.request + self.metrics


class Agreement(_Model):
    """A model's answers to a task beside the reference's, item by item; see `agreement`."""

    reference: str
    reason: str | None
    """Why they are not the same; None where they are."""
    score_difference: float
    turned: int | None = None
    """Items with another choice or text."""
    mean_difference: float | None = None
    """Of log-probabilities, absolute, in nats per request; None for generation."""


class Task(_Model):
    """One task through one model."""

    items: int
    requests: int
    seconds: Seconds
    score: float
    metric: str
    tokens: dict[str, int] = Field(default_factory=dict)
    """`prompt`, `cached`, `generated`, where the model counts them; `counted`: prompt tokens by the kernels' count."""
    answers: Answers = Field(default_factory=dict)
    agreement: Agreement | None = None
    """Of records in schema 1, which have no answers."""

    @property
    def rate(self) -> float:
        """Items per second, from the first request to the last answer."""
        return self.items / self.seconds.scoring

    def end_to_end(self, start: float) -> float:
        """Items per second with everything, the engine's start of `start` seconds included, as if run alone."""
        return self.items / (start + self.seconds.whole)


class Pass(_Model):
    """One pass over the prompts: its time, and the prompt tokens that the engine computed."""

    seconds: float
    computed_tokens: int
    cached_tokens: int

    @property
    def rate(self) -> float:
        """Uncached tokens per second."""
        return self.computed_tokens / self.seconds

    @property
    def cached(self) -> float:
        """Share of the prompt tokens that came from the prefix cache."""
        return self.cached_tokens / (self.computed_tokens + self.cached_tokens)


class Round(_Model):
    """The same prompts twice. `plain`: one new token, no log-probabilities; `scored`: four answers each."""

    plain: Pass
    scored: Pass


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


class Part(Row):
    """One arm in one cell. The cell's first part says which of `task`, `round` and `client` it has, or an `error`.

    Arms are lm-eval models in `evaluation/TASK=DOCUMENTS`, ARM/MODE in `rate/ROUND`, and `client` in `client/REQUESTS`.
    """

    task: Task | None = None
    round: Round | None = None
    client: Client | None = None
    error: str | None = None


def task_name(cell: str) -> str:
    """The task of an evaluation's cell."""
    return cell.removeprefix("evaluation/").rpartition("=")[0]


def random_weights(model: dict[str, Any]) -> bool:
    """Whether a record's model has weights that were drawn, so that its scores mean nothing."""
    return model.get("weights") == "random"


NEAR = {16: NEAR_TIE, 32: 0.01}
"""By the bits of the model's dtype, in nats. In bf16 FA3 and Triton, on an H100, turn 61 of the bundled model's 14,042
answers to MMLU, all with a lead under 0.08. In float32 this allows for the TF32 of Triton's kernels: plain float32
differs by 1e-5."""
MEAN = {16: 0.05, 32: 0.01}
"""By the same bits, of the log-probabilities of a task's choices. FA3 and Triton differ by 0.012 on average, INT8
attention by 0.023, and damaged attention by more: stress × 16 by 0.19, INT4 by 0.39."""
PERPLEXITY = 0.005
"""Relative."""
GENERATED = 50
"""Items in which the scores may differ by one."""
RULE = (
    "Answers must be the `reference`'s. Another choice is allowed only where the reference's lead over it is under "
    f"{NEAR[16]:g} nats, the rounding of 16-bit numbers ({NEAR[32]:g} in float32); log-probabilities may differ by "
    f"{MEAN[16]:g} nats on average ({MEAN[32]:g}), perplexities by {PERPLEXITY:.1%}, scores of generated answers by "
    f"one item in {GENERATED}, in 16 bits by one in any case. `turned` counts other choices and texts; "
    "`mean abs. difference` is of log-probabilities, in nats per request."
)


def agreements(tasks: Mapping[str, Task], reference: str | None, bits: int) -> dict[str, Agreement]:
    """Of one task's results by model. The first model is compared with where `reference` has none.

    `bits` are those of the model's dtype. Results of schema 1, which have no answers, keep what they noted.
    """
    stored = {name: task.agreement for name, task in tasks.items() if task.agreement}
    base = reference if reference in tasks else next(iter(tasks))
    others = {name: task for name, task in tasks.items() if name != base and task.answers}
    return {**stored, **{name: agreement(str(base), task, tasks[str(base)], bits) for name, task in others.items()}}


def agreement(base: str, mine: Task, theirs: Task, bits: int) -> Agreement:
    """The answers and score of one model, `mine`, beside those of the model `base`."""
    common = {key: (answer, theirs.answers[key]) for key, answer in mine.answers.items() if key in theirs.answers}
    gaps = [
        abs(a - b)
        for answer, other in common.values()
        if not isinstance(answer, str) and not isinstance(other, str)
        for a, b in zip(answer, other, strict=False)
    ]
    turned = {key: pair for key, pair in common.items() if _choice(pair[0]) != _choice(pair[1])}
    mean = sum(gaps) / len(gaps) if gaps else None
    perplexity = mine.metric != "acc"
    difference = mine.score / theirs.score - 1 if perplexity else mine.score - theirs.score
    what = f"{mine.metric} {mine.score:.5g} beside {base}'s {theirs.score:.5g}"
    reason = None
    if _shape(mine.answers) != _shape(theirs.answers):
        reason = (
            f"the {len(mine.answers)} items answered, or their choices, are not the {len(theirs.answers)} of {base}"
        )
    elif not math.isfinite(difference):
        reason = what
    elif not perplexity and mean is not None:
        leads: list[float] = [max(other) - other[_choice(answer)] for answer, other in turned.values()]  # type: ignore[operator]
        widest = max(leads, default=0.0)
        if not (mean <= MEAN[bits] and widest < NEAR[bits]):
            lead = f", by a lead of up to {widest:.2g} nats" if turned else ""
            reason = (
                f"{what}: {len(turned)} other choices{lead}; log-probabilities differ by {mean:.2g} on average "
                f"({NEAR[bits]:g} is tolerated of a lead, {MEAN[bits]:g} of the average)"
            )
    else:
        # Of generated answers, as many items as are allowed for.
        allowed = max(len(theirs.answers) // GENERATED, int(bits < 32)) / len(theirs.answers)
        tolerance = PERPLEXITY if perplexity else allowed + 1e-9
        if abs(difference) > tolerance:
            reason = f"{what}: {tolerance:.2g} is tolerated"
    return Agreement(
        reference=base, reason=reason, score_difference=difference, turned=len(turned), mean_difference=mean
    )


def unequal(rows: list[Part], reference: str | None, bits: int) -> dict[tuple[str, str], str]:
    """(Cell, model) → why its answers are not the reference's."""
    found = {}
    for cell in dict.fromkeys(row.cell for row in rows if row.task):
        tasks = {row.arm: row.task for row in rows if row.cell == cell and row.task}
        for name, made in agreements(tasks, reference, bits).items():
            if made.reason:
                found[cell, name] = made.reason
    return found


def _shape(answers: Answers) -> dict[str, int | None]:
    """How many choices each item has; None for a text."""
    return {key: None if isinstance(answer, str) else len(answer) for key, answer in answers.items()}


def _choice(answer: Any) -> Any:
    return answer if isinstance(answer, str) else max(range(len(answer)), key=answer.__getitem__)
