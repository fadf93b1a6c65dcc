"""`comparison.json`: two arms' scores on the same items, with the uncertainty of each and of their difference.

Values are in the metric's own unit, except perplexities, which are compared where they are sums: `log-perplexity` in
nats a word, byte or token. A metric is taken up only if lm-eval's own score is the average of its items (or the
exponential of such an average); any other aggregation has no paired difference here and is listed in `skipped`.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.errors import UsageError
from sage_eval.runs.calibration import Role
from sage_eval.runs.folder import SCHEMA_VERSION, Arm
from sage_eval.runs.manifest import Manifest
from sage_eval.runs.pairing import Pair, pair_tasks
from sage_eval.runs.verdicts import Verdict, decide, judged_rows, prefill_coverage
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import (
    Flips,
    flips,
    mean,
    paired_difference,
    paired_ratio_difference,
    ratio_of_sums,
)

Kind = Literal["mean", "log-perplexity", "bits"]
INFORMATIVE = 0.80
"""A retrieval cell whose baseline scores less than this says nothing about the candidate."""


class _Record(BaseModel):
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

    `chance` is the score of a guess, where there is one; `identical`: every single item scored the same in both arms.
    """

    task: str
    group: bool
    parent: str | None
    metric: str
    kind: Kind
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
    identical: bool = False


class ArmPair(_Record):
    """All metrics of a candidate (or calibration) arm against the baseline; `incomparable` tasks have none.

    `unpaired`: the tasks that the two arms were not asked alike, or else their outermost groups, each with its reason.
    """

    baseline: str
    candidate: str
    tasks: list[TaskComparison]
    skipped: list[str]
    role: Role = "candidate"
    incomparable: list[str] = []
    unpaired: dict[str, str] = {}


class Gate(_Record):
    """`--min task=value`: the candidate's score against an absolute minimum."""

    task: str
    metric: str
    minimum: float
    value: float
    passed: bool


class ArmSummary(_Record):
    """How an arm was run: backend, coverage by phase and kernel, seconds."""

    backend: str
    engine: dict[str, Any]
    seconds: dict[str, float]
    items: int


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


def compare(
    manifest: Manifest,
    arms: Mapping[str, Arm],
    minimum: Mapping[str, float],
    margin: Mapping[str, float] | None = None,
    fail_on: Sequence[str] = (),
) -> Comparison:
    """Compare every arm with the first one, and judge the candidate's differences in the light of the other arms.

    `UsageError` where a gate or a margin names a task that was not run.
    """
    baseline, *others = arms.values()
    pairs = [_compare_arms(baseline, other) for other in others]
    candidate = next(other for other in others if other.record.spec.role == "candidate")
    judged = {row.task for row in judged_rows(pairs[others.index(candidate)], margin or {})}
    above = {
        floor.name: _compare_arms(floor, candidate, only=judged)
        for floor in others
        if floor.record.spec.role == "floor"
    }
    verdict = decide(pairs, above, margin or {}, fail_on, prefill_coverage(manifest.mode, candidate))
    return Comparison(
        schema_version=SCHEMA_VERSION,
        mode=manifest.mode,
        arms={
            name: ArmSummary(
                backend=arm.backend, engine=arm.record.engine, seconds=arm.record.seconds, items=arm.record.items
            )
            for name, arm in arms.items()
        },
        pairs=[_published(pair) for pair in pairs],
        verdict=verdict,
        gates=[_gate(pairs, task, value) for task, value in minimum.items()],
    )


def _published(pair: ArmPair) -> ArmPair:
    """Of calibration arms only what was asked for by name: nine arms' 57 subjects would be a megabyte."""
    if pair.role == "candidate":
        return pair
    return pair.model_copy(update={"tasks": [row for row in pair.tasks if row.group or row.parent is None]})


def _compare_arms(baseline: Arm, candidate: Arm, only: Container[str] | None = None) -> ArmPair:
    paired, refused = pair_tasks(baseline, candidate)
    results = baseline.results
    units = [(name, False, [name]) for name in paired]
    members = results.get("group_subtasks", {})
    scored = results.get("groups", {})
    groups = [(name, True, _leaves(name, members)) for name in members if name in scored]
    parents = {child: name for name in members if name in scored for child in members[name]}
    broken = {n: refused[leaf] for n in [*scored, *refused] for leaf in _leaves(n, members) if leaf in refused}
    tasks, skipped = [], []
    order = {name: i for i, name in enumerate(_in_order(results["results"], members, parents))}
    for name, group, leaves in sorted([*groups, *units], key=lambda unit: order.get(unit[0], len(order))):
        if name in broken or (only is not None and name not in only):
            continue
        items = [item for leaf in leaves for item in paired.get(leaf, [])]
        for metric, chosen in _by_metric(items).items():
            theirs = results["results"].get(name, {}).get(metric if "," in metric else f"{metric},none")
            if not isinstance(theirs, int | float):
                continue
            parent = parents.get(name)
            parent = _outermost(parent, parents) if parent and parent in broken else parent
            row = _compare_items(name, metric, chosen, group=group, parent=parent)
            row = row.model_copy(update={"higher_is_better": _direction(results, leaves, metric)})
            if math.isclose(score(row, "baseline"), theirs, rel_tol=1e-6, abs_tol=1e-9):
                tasks.append(row)
            else:
                skipped.append(f"{name} {metric}: lm-eval's score ({theirs:.6g}) is not an average over the items")
    covered = {leaf for row in tasks for leaf in _leaves(row.task, members)}
    return ArmPair(
        baseline=baseline.name,
        candidate=candidate.name,
        tasks=tasks,
        skipped=skipped,
        role=candidate.record.spec.role,
        incomparable=[name for name in paired if name not in covered],
        unpaired={_outermost(name, parents): why for name, why in broken.items()},
    )


def _in_order(names: Iterable[str], members: Mapping[str, list[str]], parents: Mapping[str, str]) -> Iterator[str]:
    """Each group followed by its members."""
    for name in names:
        if name not in parents:
            yield name
            below = {child: parent for child, parent in parents.items() if parent != name}
            yield from _in_order([c for c in members.get(name, []) if parents.get(c) == name], members, below)


def _outermost(name: str, parents: Mapping[str, str]) -> str:
    return _outermost(parents[name], parents) if name in parents else name


def _leaves(name: str, members: Mapping[str, Iterable[str]]) -> list[str]:
    below = list(members.get(name, []))
    return list(dict.fromkeys(leaf for child in below for leaf in _leaves(child, members))) if below else [name]


def _by_metric(items: list[Pair]) -> dict[str, list[Pair]]:
    chosen: dict[str, list[Pair]] = {}
    for item in items:
        suffix = "" if item[0].filter == "none" else f",{item[0].filter}"
        for name in item[0].metrics:
            chosen.setdefault(name + suffix, []).append(item)
    return chosen


def _direction(results: Mapping[str, Any], leaves: list[str], metric: str) -> bool:
    stated = results.get("higher_is_better", {}).get(leaves[0], {}).get(metric.partition(",")[0])
    return True if stated is None else bool(stated)


def _compare_items(task: str, metric: str, items: list[Pair], *, group: bool, parent: str | None) -> TaskComparison:
    name = metric.partition(",")[0]
    columns = [[sample.metrics[name] for sample in side] for side in zip(*items, strict=True)]
    clusters = _labels(items, "cluster", "document")
    table = changed = None
    kind: Kind = "mean"
    if isinstance(columns[0][0], tuple):
        kind = "bits" if name.startswith("bits") else "log-perplexity"
        scale = 1 / math.log(2) if kind == "bits" else 1.0
        base, cand = ([-value[0] * scale for value in column] for column in columns)
        weights = [value[1] for value in columns[0]]
        estimates = (
            ratio_of_sums(base, weights, clusters=clusters),
            ratio_of_sums(cand, weights, clusters=clusters),
            paired_ratio_difference(base, cand, weights, clusters=clusters),
        )
    else:
        base, cand = ([float(value) for value in column] for column in columns)
        tasks = [baseline.task for baseline, _ in items]
        design: dict[str, Any] = {"clusters": clusters, "strata": tasks if len(set(tasks)) > 1 else None}
        estimates = (mean(base, **design), mean(cand, **design), paired_difference(base, cand, **design))
        if set(base) | set(cand) <= {0.0, 1.0}:
            table = flips(base, cand)
            changed = sum(_answer(baseline) != _answer(candidate) for baseline, candidate in items)
    cells = _cells(items, base, cand) if table else []
    chance = _chance(items) if table else None
    return TaskComparison(
        task=task,
        group=group,
        parent=parent,
        metric=metric,
        kind=kind,
        higher_is_better=True,
        n=len(items),
        baseline=estimates[0],
        candidate=estimates[1],
        difference=estimates[2],
        flips=table,
        changed=changed,
        notes=_notes(chance, estimates[0], cells) if table else [],
        cells=cells,
        chance=chance,
        identical=base == cand,
    )


def _labels(items: list[Pair], *fields: str) -> list[Any] | None:
    for field in fields:
        if all(field in baseline.cell for baseline, _ in items):
            return [f"{baseline.task}/{baseline.cell[field]}" for baseline, _ in items]
    return None


def _answer(sample: Any) -> Any:
    """What the arm answered: the best choice, the text, or the greedy flags."""
    if sample.generated:
        return sample.generated
    if len(sample.logprobs) > 1:
        return sample.logprobs.index(max(sample.logprobs))
    return sample.greedy


def _chance(items: list[Pair]) -> float | None:
    """Choices have a chance level, generated answers (no logprobs) and single scores have none."""
    k, *others = {len(sample.logprobs) for sample, _ in items}
    return 1 / k if not others and k >= 2 else None


def _notes(chance: float | None, baseline: Estimate, cells: list[Cell]) -> list[str]:
    notes = []
    if chance is not None and baseline.low is not None and baseline.low <= chance:
        notes.append(f"baseline at chance ({100 * chance:.0f} %): a loss could not be seen here")
    silent = [cell for cell in cells if not cell.informative]
    if silent:
        notes.append(f"{len(silent)} of {len(cells)} cells uninformative (baseline under {100 * INFORMATIVE:.0f} %)")
    return notes


def _cells(items: list[Pair], base_scores: list[float], cand_scores: list[float]) -> list[Cell]:
    found: dict[tuple[str, int, float | None], list[tuple[float, float]]] = {}
    for (baseline, _), *values in zip(items, base_scores, cand_scores, strict=True):
        cell = baseline.cell
        if "length" not in cell:
            return []
        depth = float(cell["depth"]) if "depth" in cell else None
        key = (str(cell.get("family", baseline.task)), int(cell["length"]), depth)
        found.setdefault(key, []).append((values[0], values[1]))
    cells = []
    for (family, length, depth), scores in sorted(found.items(), key=lambda e: (e[0][0], e[0][1], e[0][2] or 0)):
        base, cand = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        cells.append(
            Cell(
                family=family, length=length, depth=depth, n=len(scores), baseline=base, candidate=cand,
                informative=base >= INFORMATIVE,
            )
        )  # fmt: skip
    return cells


def score(row: TaskComparison, arm: Literal["baseline", "candidate"]) -> float:
    """The value as lm-eval reports it: perplexities are exponentials."""
    value: float = getattr(row, arm).value
    return math.exp(value) if row.kind == "log-perplexity" else value


def _gate(pairs: list[ArmPair], task: str, minimum: float) -> Gate:
    rows = next(p.tasks for p in pairs if p.role == "candidate")
    row = next((row for row in rows if row.task == task), None)
    if row is None:
        raise UsageError(f"--min {task}={minimum}: not among the tasks of this run ({', '.join(r.task for r in rows)})")
    value = score(row, "candidate")
    passed = value >= minimum if row.higher_is_better else value <= minimum
    return Gate(task=task, metric=row.metric, minimum=minimum, value=value, passed=passed)
