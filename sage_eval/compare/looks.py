"""`--until settled`: items in a random order, looked at a few times, until every task has its verdict.

At each look every arm answers what it has not answered yet, and the comparison is judged by intervals and p-values that
hold over all looks (`statistics.sequential`). A task that is settled gets no more items.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_eval.compare.divergence import text_of
from sage_eval.compare.pairs import Pairs, leaves_of
from sage_eval.config import RunConfig
from sage_eval.errors import UsageError
from sage_eval.statistics.equivalence import at_look
from sage_eval.statistics.sequential import LOOKS
from sage_eval.store import folder as layout
from sage_eval.store.comparison import ArmPair, TaskComparison, Verdict
from sage_eval.store.files import read_record, write_json
from sage_eval.store.folder import Run
from sage_eval.store.looks import Look, Looks

SETTLED = ("equivalent", "equivalent (blunt)", "worse", "better")


def shuffled(name: str, task: Any, config: RunConfig) -> list[list[int]]:
    """The task's item numbers in whole documents, those in an order that the seed and the task's name decide."""
    from lm_eval.evaluator_utils import get_sample_size

    documents = task.eval_docs
    most = get_sample_size(task, config.limit)
    numbers = config.samples.get(name) or range(len(documents))[:most]
    cell = (task.get_config("metadata") or {}).get("sage_cell", ())
    field = next((field for field in ("cluster", "document") if field in cell), None)
    units: dict[Any, list[int]] = {}
    for number in numbers:
        units.setdefault(documents[number][field] if field else number, []).append(number)
    order = list(units.values())
    random.Random(f"{config.seed} {name}").shuffle(order)
    return order


def until_settled(
    config: RunConfig, tasks: Mapping[str, Any], target: Path, answer: Callable[[dict[str, list[int]]], Run]
) -> Run:
    """The judged run where it stopped; `answer` has all arms answer the items that it is given, by task, and judges.

    Every look is kept in `looks.json`; an interrupted run goes on at the look where it was.
    """
    units = {name: shuffled(name, task, config) for name, task in tasks.items()}
    items = {name: sum(map(len, order)) for name, order in units.items()}
    path = target / layout.LOOKS
    record = read_record(Looks, path) if path.exists() else Looks(seed=config.seed, items=items)
    if (record.seed, record.items) != (config.seed, items):
        raise UsageError(f"{target} holds a comparison of other items: choose another --output, or --fresh")
    while True:
        if not record.looks or (record.looks[-1].verdicts and record.stopped is None):
            record = record.model_copy(update={"looks": [*record.looks, _next(record, units)]})
            write_json(path, record.model_dump(mode="json"))
        look = record.looks[-1]
        run = answer({name: sorted(_first(units[name], count)) for name, count in look.items.items()})
        if record.stopped is None and (verdict := run.comparison.verdict):
            going = going_on(verdict, run)
            found = {verdict.label(task): task.verdict for task in verdict.tasks}
            judged = look.model_copy(update={"verdicts": found, "open": going})
            stopped = "settled" if not going else "all items" if look.items == items else None
            record = record.model_copy(update={"looks": [*record.looks[:-1], judged], "stopped": stopped})
            write_json(path, record.model_dump(mode="json"))
        if record.stopped:
            vars(run)["looks"] = record
            return run


def _next(record: Looks, units: Mapping[str, list[list[int]]]) -> Look:
    share = LOOKS[len(record.looks)]
    last = record.looks[-1] if record.looks else Look(share=0, items={}, open=list(units))
    more = {name: len(_first(units[name], math.ceil(share * record.items[name]))) for name in last.open}
    return Look(share=share, items=last.items | more)


def _first(units: Sequence[Sequence[int]], count: int) -> list[int]:
    """The items of as many whole units as hold `count` items."""
    found: list[int] = []
    for unit in units:
        if len(found) >= count:
            break
        found += unit
    return found


def going_on(verdict: Verdict, run: Run) -> list[str]:
    """The tasks that want more items: those that are not settled, and with them those that nothing judges."""
    tasks = next(iter(run.arms.values())).results
    kinds: dict[tuple[str, str], list[str]] = {}
    for task in verdict.tasks:
        if task.metric:
            for leaf in leaves_of(text_of(task.task), tasks):
                kinds.setdefault((leaf, task.candidate), []).append(task.verdict)
    # Where one number is worse, the task's others need not be known.
    unsettled = {leaf for (leaf, _), found in kinds.items() if "worse" not in found and not {*found} <= {*SETTLED}}
    judged = {leaf for leaf, _ in kinds}
    answered = dict.fromkeys(sample.task for sample in next(iter(run.arms.values())).samples)
    return [leaf for leaf in answered if leaf in unsettled or leaf not in judged] if unsettled else []


def with_looks(found: Pairs) -> Pairs:
    """`found` with intervals and p-values that hold over all looks; as it is where there was but one."""
    if (record := found.run.looks) is None:
        return found
    results = next(iter(found.run.arms.values())).results

    def looked(pair: ArmPair) -> ArmPair:
        return pair.model_copy(update={"tasks": [row(each) for each in pair.tasks]})

    def row(each: TaskComparison) -> TaskComparison:
        shares = record.shares(leaves_of(text_of(each.task), results))
        right = None if each.right is None else at_look(each.right, shares)
        return each.model_copy(update={"difference": at_look(each.difference, shares), "right": right})

    above = {name: {floor: looked(pair) for floor, pair in pairs.items()} for name, pairs in found.above.items()}
    return replace(found, arms=[looked(pair) for pair in found.arms], above=above)
