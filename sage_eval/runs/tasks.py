"""Loading lm-eval tasks by name, with errors that name the nearest ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sage_eval.config import nearest
from sage_eval.errors import DataError, SageEvalError, UsageError


def load_tasks(names: Iterable[str], tokenizer: str, task_args: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The task manager (`tokenizer` and `task_args` reach the tasks as metadata), its `load` answering with what was
    loaded here, and the leaf tasks by name.

    Raises `UsageError` for an unknown name and `DataError` where a data set cannot be read.
    """
    from sage_eval.lm_eval_hook import task_manager

    names = list(names)
    files = [name for name in names if name.endswith((".yaml", ".yml")) and Path(name).is_file()]
    # Task files bring what they need: they do not make lm-eval scan its own 14,000.
    manager = task_manager(
        [name for name in names if name not in files] or ["sage_"], metadata={"tokenizer": tokenizer, **task_args}
    )
    known = manager.all_tasks
    for name in names:
        if name not in files and name not in known and not manager.match_tasks([name]):
            raise UsageError(f"unknown task {name!r}{nearest(name, known)} (`lm_eval ls tasks` lists lm-eval's own)")
    try:
        loaded = manager.load(names)
    except SageEvalError:
        raise
    except Exception as error:  # whatever `datasets` or a task's own loader raises for a broken or absent data set
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot load {', '.join(names)}: {first}; see --data-dir and `sage-eval prepare`") from error
    # simple_evaluate would load everything a second time.
    manager.load = lambda _names: loaded
    return manager, dict(loaded["tasks"])
