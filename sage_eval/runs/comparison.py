"""`comparison.json`: two arms' scores on the same items, with the uncertainty of each and of their difference.

Values are in the metric's own unit, except perplexities, which are compared where they are sums: `log-perplexity` in
nats a word, byte or token. A metric is taken up only if lm-eval's own score is the average of its items (or the
exponential of such an average); any other aggregation has no paired difference here and is listed in `skipped`.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sage_eval.errors import UsageError
from sage_eval.runs import ties
from sage_eval.runs.calibration import Role
from sage_eval.runs.folder import SCHEMA_VERSION, Arm
from sage_eval.runs.manifest import Manifest
from sage_eval.runs.pairing import pair_tasks
from sage_eval.runs.rows import Cell, Record, TaskComparison, by_metric, compare_items
from sage_eval.runs.verdicts import Verdict, decide, judged_rows, prefill_coverage
from sage_eval.statistics.changes import NEAR_TIE

__all__ = ["ArmPair", "ArmSummary", "Cell", "Comparison", "Gate", "TaskComparison", "compare", "score"]


class ArmPair(Record):
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


class Gate(Record):
    """`--min task=value`: the candidate's score against an absolute minimum."""

    task: str
    metric: str
    minimum: float
    value: float
    passed: bool


class ArmSummary(Record):
    """How an arm was run: backend, coverage by phase and kernel, seconds."""

    backend: str
    engine: dict[str, Any]
    seconds: dict[str, float]
    items: int


class Comparison(Record):
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
    floors = [other for other in others if other.record.spec.role == "floor"]
    limit = ties.near_tie([p for arm in floors for items in pair_tasks(baseline, arm)[0].values() for p in items])
    pairs = [_compare_arms(baseline, other, limit=limit) for other in others]
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


def _compare_arms(
    baseline: Arm, candidate: Arm, only: Container[str] | None = None, limit: float = NEAR_TIE
) -> ArmPair:
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
        for metric, chosen in by_metric(items).items():
            theirs = results["results"].get(name, {}).get(metric if "," in metric else f"{metric},none")
            if not isinstance(theirs, int | float):
                continue
            parent = parents.get(name)
            parent = _outermost(parent, parents) if parent and parent in broken else parent
            row = compare_items(name, metric, chosen, group=group, parent=parent, limit=limit)
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


def _direction(results: Mapping[str, Any], leaves: list[str], metric: str) -> bool:
    stated = results.get("higher_is_better", {}).get(leaves[0], {}).get(metric.partition(",")[0])
    return True if stated is None else bool(stated)


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
