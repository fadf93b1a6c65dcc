"""`comparison.json`: two arms' scores on the same items, with the uncertainty of each and of their difference.

Values are in the metric's own unit, except perplexities, which are compared where they are sums: `log-perplexity` in
nats per word, byte or token.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.statistics.changes import Changes
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import Flips
from sage_eval.statistics.pooled import Pooled
from sage_eval.statistics.verdict import Kind
from sage_eval.store.record import Role

MetricKind = Literal["mean", "log-perplexity", "bits", "pooled", "resampled", "kl"]
"""`pooled`: the mean of all values of all items, of which an item can have several; `resampled`: a score of all
items at once, such as F1, whose errors are those of items drawn anew; `kl`: KL divergence, of which the difference is
the excess over the floor."""


class _Record(BaseModel):
    """What the records of `comparison.json` have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Record):
    """Retrieval at one family, length and depth: shares of items found, 0 to 1."""

    family: str
    length: int
    depth: float | None
    n: int
    baseline: float
    candidate: float
    informative: bool


class TaskComparison(_Record):
    """One metric of one task or group in two arms. `difference` is candidate − baseline.

    `chance` is the score of a guess, where there is one, `constant` that of the best constant answer; `identical`:
    every single item scored the same in both arms; `changes`: a choice's flips with near-ties apart; `by_member`: a
    group's difference with its members as clusters; `right`: the change of the right choice's log-probability among the
    choices, in nats.
    """

    task: str
    group: bool
    parent: str | None
    metric: str
    kind: MetricKind
    higher_is_better: bool
    n: int
    baseline: Estimate
    candidate: Estimate
    difference: Estimate
    flips: Flips | None
    changed: int | None
    notes: list[str]
    cells: list[Cell] = []
    chance: float | None = None
    constant: float | None = None
    identical: bool = False
    changes: Changes | None = None
    by_member: Estimate | None = None
    right: Estimate | None = None


class ArmPair(_Record):
    """All metrics of a candidate (or calibration) arm against the baseline; `incomparable` tasks have none.

    `unpaired`: the tasks that the two arms were not asked alike, or else their outermost groups, each with its reason.
    """

    baseline: str
    candidate: str
    tasks: list[TaskComparison]
    skipped: list[str]
    role: Role = "candidate"
    incomparable: list[str] = Field(default=[])
    unpaired: dict[str, str] = Field(default={})


class Gate(_Record):
    """`--min task=value`: a candidate's score against an absolute minimum; no metric where none was compared."""

    task: str
    candidate: str = "candidate"
    metric: str | None
    minimum: float
    value: float | None
    passed: bool


class ArmSummary(_Record):
    """How an arm was run: backend, coverage by phase and kernel, seconds."""

    backend: str
    engine: dict[str, Any]
    seconds: dict[str, float]
    items: int


class Floor(_Record):
    """Floor arm − baseline; `identical`: no item scored otherwise; `excess`: candidate − floor arm, paired.

    `verdict` is what the floor arm would get as a candidate: anything but `equivalent` says that the instrument, or the
    baseline's own scatter, is coarser than the margin.
    """

    difference: Estimate
    identical: bool
    excess: Estimate
    verdict: Kind


class Control(_Record):
    """Control − baseline; `seen` as `statistics.verdict.seen_controls` has it."""

    difference: Estimate
    seen: bool


class Dose(_Record):
    """One arm under stress − baseline, in the metric's unit.

    `seen` as for every control: see `statistics.verdict.seen_controls`.
    """

    arm: str
    dose: int
    difference: Estimate
    seen: bool


class TaskVerdict(_Record):
    """The verdict on one candidate in one task.

    Estimates are in the metric's unit; `scale` makes them what `unit` says (0.01 → 1 pp). `interval` is the candidate's
    difference with the interval that was held against ±`margin` (90 % for two one-sided
    tests at 5 %); `p` is that of "no difference" after Holm's correction, `p_equivalence` that of the two one-sided
    tests, `p_beyond` that of a loss within the margin; `sharpness` the smallest damage seen, in margins; `items` would
    settle it; `coverage` is SageAttention's share of the prefill. All are None for a task without
    a metric that can be judged. `doses` of outlier stress, ascending, and the detection limit among them.
    """

    task: str
    candidate: str = "candidate"
    metric: str | None
    verdict: Kind
    reason: str
    unit: str = ""
    scale: float = 1.0
    margin: float | None = None
    interval: Estimate | None = None
    p: float | None = None
    p_equivalence: float | None = None
    significant: bool = False
    p_beyond: float | None = None
    sharpness: float | None = None
    items: int | None = None
    coverage: float | None = None
    floors: dict[str, Floor] = {}
    controls: dict[str, Control] = {}
    doses: list[Dose] = []
    detection_limit: int | None = None

    @property
    def floor(self) -> str | None:
        """The floor arm that is farthest from the baseline: what arms that should be equal can differ by."""
        return max(self.floors, key=lambda name: abs(self.floors[name].difference.value), default=None)


class Verdict(_Record):
    """The overall verdict, those it rests on, the arms it lacked, and the verdicts that fail a run.

    `pooled`: by candidate, whether it differs from the baseline over all tasks together.
    """

    verdict: Kind
    reason: str
    alpha: float
    tasks: list[TaskVerdict]
    missing: list[Literal["floor", "control"]]
    fail_on: list[str]
    pooled: dict[str, Pooled] = {}

    @property
    def candidates(self) -> list[str]:
        """The arms that were judged."""
        return list(dict.fromkeys(task.candidate for task in self.tasks))

    def label(self, task: TaskVerdict) -> str:
        """The task's name, with the candidate's where there are several."""
        return task.task if len(self.candidates) < 2 else f"{task.task} ({task.candidate})"

    @property
    def failed(self) -> bool:
        """Whether the overall verdict or that of any task is among `fail_on`, or no task could be judged by it."""
        judged = any(task.metric for task in self.tasks)
        found = {self.verdict, *(task.verdict for task in self.tasks)}
        return bool(self.fail_on) and (not judged or bool(found & set(self.fail_on)))


class Comparison(_Record):
    """`comparison.json`."""

    schema_version: Literal[1]
    mode: str
    arms: dict[str, ArmSummary]
    pairs: list[ArmPair]
    gates: list[Gate]
    verdict: Verdict | None = None

    @property
    def passed(self) -> bool:
        """Whether every absolute gate was met, and no verdict is among those that were to fail."""
        return all(gate.passed for gate in self.gates) and not (self.verdict and self.verdict.failed)
