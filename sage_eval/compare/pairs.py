"""Every arm of a run against the baseline, metric by metric, and the candidate against every floor arm.

A metric is taken up if its aggregation has a rule (`metrics.RULES`), or was resampled (`corpus`), and the rule's value
is lm-eval's own score. Every other metric that lm-eval has a score for is listed in `skipped`, with the reason.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sage_eval.compare import corpus, metrics, ties
from sage_eval.compare.pairing import Pair, pair_tasks
from sage_eval.compare.rows import by_metric, compare_items, differing
from sage_eval.statistics.changes import NEAR_TIE
from sage_eval.store.comparison import ArmPair, TaskComparison
from sage_eval.store.folder import Arm, Run

AT_ODDS = "its tasks aggregate it in different ways"


@dataclass(frozen=True)
class Pairs:
    """The arms of `run`, paired: each one against the baseline, and each candidate, by name, against each floor arm."""

    run: Run
    arms: list[ArmPair]
    above: dict[str, dict[str, ArmPair]]

    @property
    def candidates(self) -> list[ArmPair]:
        """The candidates against the baseline."""
        return [pair for pair in self.arms if pair.role == "candidate"]


def pairs(run: Run) -> Pairs:
    """Pair all arms of `run`. Raises `DataError` where two arms have no task in common that they were asked alike."""
    baseline, *others = run.arms.values()
    floors = [other for other in others if other.record.spec.role == "floor"]
    limit = ties.near_tie([p for arm in floors for items in pair_tasks(baseline, arm)[0].values() for p in items])
    arms = [compare_arms(baseline, other, limit=limit) for other in others]
    above: dict[str, dict[str, ArmPair]] = {}
    for candidate, pair in zip(others, arms, strict=True):
        if pair.role == "candidate":
            present = {row.task for row in pair.tasks}
            top = {row.task for row in pair.tasks if row.parent not in present}
            above[candidate.name] = {floor.name: compare_arms(floor, candidate, only=top) for floor in floors}
    return Pairs(run, arms, above)


def compare_arms(baseline: Arm, candidate: Arm, only: Container[str] | None = None, limit: float = NEAR_TIE) -> ArmPair:
    """All metrics of two arms, or of their tasks and groups in `only`; raises as `pairs` does."""
    paired, refused = pair_tasks(baseline, candidate)
    arms, results = (baseline, candidate), baseline.results
    units = [(name, False, [name]) for name in paired]
    members = results.get("group_subtasks", {})
    scored = results.get("groups", {})
    groups = [(name, True, _leaves(name, members)) for name in members if name in scored]
    parents = {child: name for name in members if name in scored for child in members[name]}
    broken = {n: refused[leaf] for n in [*scored, *refused] for leaf in _leaves(n, members) if leaf in refused}
    tasks: list[TaskComparison] = []
    refusals: dict[tuple[str, str], list[str]] = {}
    order = {name: i for i, name in enumerate(_in_order(results["results"], members, parents))}
    for name, group, leaves in sorted([*groups, *units], key=lambda unit: order.get(unit[0], len(order))):
        if name in broken or (only is not None and name not in only):
            continue
        items = by_metric([item for leaf in leaves for item in paired.get(leaf, [])])
        scores = _scores(results, name)
        parent = parents.get(name)
        parent = _outermost(parent, parents) if parent and parent in broken else parent
        for metric in dict.fromkeys([*(metric for metric in items if metric in scores), *scores]):
            try:
                row = _row(name, metric, items.get(metric, []), scores[metric], group, parent, limit, arms, leaves)
            except _Refused as why:
                refusals.setdefault((metric, str(why)), []).append(name)
            else:
                tasks += [
                    row.model_copy(update={"notes": [*row.notes, *_lacking(metric, items.get(metric, []), arms)]})
                ]
    skipped = [f"{_several(names)} {metric}: {why}" for (metric, why), names in refusals.items() if why]
    skipped += [f"{name}: {differing(found)}" for name, found in paired.items() if metrics.bypassed(results, name)]
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


class _Refused(Exception):  # noqa: N818  # no error: the metric is listed as not compared
    """Why a metric has no row; empty where there is nothing to be said."""


def _row(
    name: str,
    metric: str,
    items: list[Pair],
    theirs: float,
    group: bool,
    parent: str | None,
    limit: float,
    arms: tuple[Arm, Arm],
    leaves: Sequence[str],
) -> TaskComparison:
    """The row of those `items` that have `metric` in both arms; its value on the baseline's own must be `theirs`."""
    results, candidate = (arm.results for arm in arms)
    bare = metric.partition(",")[0]
    shared = [pair for pair in items if all(bare in sample.metrics for sample in pair)]
    kinds = {metrics.kind(results, base.task, bare, base.metrics[bare]) for base, _ in shared}
    drawn = [leaf for leaf in leaves if metrics.kind(results, leaf, bare, None) == "resampled"]
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None and not drawn:
        raise _Refused(AT_ODDS if kinds else metrics.reason(results, leaves, bare))
    shown: dict[str, Any] = {"group": group, "parent": parent}
    try:
        if kind is None or drawn:
            row = corpus.row(name, metric, (results, candidate), drawn, **shown)
            return row.model_copy(update={"higher_is_better": _direction(results, drawn, metric)})
        shown |= {"kind": kind, "limit": limit}
        row = whole = compare_items(name, metric, shared, **shown)
        own = [(base, base) for base, _ in items if bare in base.metrics]
        if len(own) > len(shared):
            whole = compare_items(name, metric, own, **shown)
    except ValueError as error:
        raise _Refused(str(error)) from None
    # NaN: the task could not score an item, and lm-eval averaged it all the same.
    if not math.isnan(theirs) and not math.isclose(score(whole, "baseline"), theirs, rel_tol=1e-6, abs_tol=1e-9):
        raise _Refused(f"lm-eval's score ({theirs:.6g}) is not an average over the items")
    return row.model_copy(update={"higher_is_better": _direction(results, leaves, metric)})


def _scores(results: Mapping[str, Any], name: str) -> dict[str, float]:
    """lm-eval's scores of a task or group by metric, with the filter's name where that is not "none"."""
    found = {key.removesuffix(",none"): value for key, value in results["results"].get(name, {}).items() if "," in key}
    return {
        key: value if isinstance(value, int | float) else math.nan
        for key, value in found.items()
        if not key.partition(",")[0].endswith("_stderr")
    }


def _lacking(metric: str, items: Sequence[Pair], arms: tuple[Arm, Arm]) -> list[str]:
    """A note of the items that have a value in one arm only, as where an answer could not be parsed."""
    bare = metric.partition(",")[0]
    counts = [sum(bare not in pair[side].metrics for pair in items) for side in (0, 1)]
    lacking = [f"{count:,} without a value in {arm.name}" for arm, count in zip(arms, counts, strict=True) if count]
    return [f"items left out: {', '.join(lacking)}"] if lacking else []


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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


def leaves_of(name: str, results: Mapping[str, Any]) -> list[str]:
    """The tasks of a group in lm-eval's `results`; a task itself otherwise."""
    return _leaves(name, results.get("group_subtasks", {}))


def _direction(results: Mapping[str, Any], leaves: Sequence[str], metric: str) -> bool:
    stated = results.get("higher_is_better", {}).get(leaves[0], {}).get(metric.partition(",")[0])
    return True if stated is None else bool(stated)


def score(row: TaskComparison, arm: Literal["baseline", "candidate"]) -> float:
    """The value as lm-eval reports it: perplexities are exponentials."""
    value: float = getattr(row, arm).value
    return math.exp(value) if row.kind == "log-perplexity" else value
