"""What can be refused before the first arm is started: by a run, and by its dry run too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage_eval.config import RunConfig
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.parsing import nearest
from sage_eval.statistics.verdict import METRICS
from sage_eval.store.spec import ArmSpec


def check_arms(specs: Sequence[ArmSpec]) -> None:
    """Raise, naming the arm, what its engine would be refused for: backend, model, settings, weights, tokenizer."""
    ours = [spec for spec in specs if spec.lm == "sglang-sage"]
    if not ours:
        return
    from model_adapters.sglang_sage import SGLangSageLM

    for spec in ours:
        try:
            SGLangSageLM.check(**spec.model_args)
        except SageEvalError as error:
            raise type(error)(f"arm {spec.name}: {error}") from None


def check_names(config: RunConfig, tasks: Iterable[str], metrics: Iterable[str]) -> None:
    """Raise `UsageError` for a gate on none of `tasks` (groups among them), or a margin of none, nor of a metric."""
    names = list(dict.fromkeys(tasks))
    for name, value in config.min.items():
        if name not in names:
            raise UsageError(f"--min {name}={value:g}: {_listed('not among the tasks of this run', name, names)}")
    known = [*names, *dict.fromkeys(metrics), *METRICS]
    for name, value in config.margin.items():
        if name.partition(",")[0] not in known:
            what = _listed("neither a task nor a metric of this run", name, known)
            raise UsageError(f"--margin {name}={value:g}: {what}")


def names_of_tasks(tasks: Mapping[str, Any], groups: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of loaded tasks with their groups, and of their metrics."""
    return [*groups, *tasks], [metric for task in tasks.values() for metric in task.aggregation()]


def names_of_results(results: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The same as lm-eval's results have them."""
    rows = {**results["results"], **results.get("groups", {})}
    return list(rows), [key.partition(",")[0] for row in rows.values() for key in row]


def _listed(what: str, name: str, known: Sequence[str], most: int = 12) -> str:
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"{what} ({', '.join(known[:most])}{more}){nearest(name, known)}"
