"""What lm-eval lacks for an add-on, added when its modules are imported.

1. the model `sglang-sage`, by name and lazily, on releases that read no entry points (before 0.4.14);
2. the tasks in our task folder, without `--include_path`;
3. the data in the folder `SAGE_EVAL_DATA`, for lm-eval's own tasks as for ours: the tasks' configuration, names and
   hashes stay what they are with the hub.

`install` is safe to call again, before or after lm-eval's modules are imported.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODEL_NAME = "sglang-sage"
MODEL_TARGET = "model_adapters.sglang_sage:SGLangSageLM"
FIRST_WITH_ENTRY_POINTS = (0, 4, 14)
OURS = "sage_"
"""Every task of ours has this prefix, and lm-eval has none with it."""


def install() -> None:
    """Patch the lm-eval modules that are imported, and arrange the same for those that will be."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name, patch in _PATCHES.items():
        if (module := sys.modules.get(name)) is not None:
            _apply(patch, module)


def task_manager(
    names: Sequence[str], metadata: dict[str, Any] | None = None, include_path: Sequence[Path] = ()
) -> Any:
    """An `lm_eval.tasks.TaskManager` that knows `names`.

    lm-eval's own 14,000 task files take some eleven seconds to scan; where every name is ours they are left out.
    `metadata` reaches the tasks: `tokenizer` (a path), and the parameters of the retrieval tasks.
    """
    install()
    from lm_eval.tasks import TaskManager

    from sage_eval.data import tasks_dir

    return TaskManager(
        include_path=[tasks_dir(), *include_path], include_defaults=not only_ours(names), metadata=metadata
    )


def only_ours(names: Sequence[str]) -> bool:
    """Whether no name, or pattern of names, can mean one of lm-eval's own tasks."""
    return bool(names) and all(name.startswith(OURS) for name in names)


def run_lm_eval(argv: Sequence[str]) -> int:
    """`lm_eval ARGV` with our model and tasks, needing no start-up file; the exit code is lm-eval's."""
    install()
    from lm_eval.__main__ import cli_evaluate

    before, sys.argv = sys.argv, ["lm-eval", *argv]
    _state["skip_defaults"] = only_ours(_tasks_of(argv))
    try:
        cli_evaluate()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
        _state["skip_defaults"] = False
    return 0


def _tasks_of(argv: Sequence[str]) -> list[str]:
    """The names after `--tasks`, in any of the forms that lm-eval takes; empty where a name cannot be told."""
    import argparse

    from sage_eval.parsing import split

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tasks", "-t", nargs="*", action="extend", default=[])
    names: list[str] = split(parser.parse_known_args(argv)[0].tasks)
    return names


def _register_model(module: ModuleType) -> None:
    import re
    from importlib.metadata import version

    release = tuple(int(number) for number in re.findall(r"\d+", version("lm_eval"))[:3])
    if release >= FIRST_WITH_ENTRY_POINTS:
        return
    from lm_eval.api.registry import model_registry

    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target=MODEL_TARGET)


def _add_tasks(module: ModuleType) -> None:
    from sage_eval.data import tasks_dir
    from sage_eval.data.loads import find_nltk

    ours = tasks_dir().resolve()
    manager = module.TaskManager
    original = manager.__init__

    @functools.wraps(original)
    def init(
        self: Any, verbosity: Any = None, include_path: Any = None, include_defaults: bool = True, **rest: Any
    ) -> None:
        # Someone who asks for no built-in tasks asks for a closed list: theirs stays as it is.
        if include_defaults:
            given = list(include_path) if isinstance(include_path, (list, tuple)) else [include_path]
            theirs = [path for path in given if path]
            include_path = theirs if ours in [Path(path).resolve() for path in theirs] else [ours, *theirs]
        include_defaults = include_defaults and not _state["skip_defaults"]
        find_nltk()
        original(self, verbosity, include_path, include_defaults, **rest)

    manager.__init__ = init


def _read_local_data(module: ModuleType) -> None:
    from sage_eval.data.loads import serve

    serve()


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "lm_eval.models": _register_model,
    "lm_eval.tasks.manager": _add_tasks,
    "lm_eval.api.task": _read_local_data,
}
_state = {"skip_defaults": False}
_MARK = "_patched_by_sage_eval"


def _apply(patch: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Patch a module once; what goes wrong is said and does not stop lm-eval."""
    if vars(module).get(_MARK):
        return
    setattr(module, _MARK, True)
    try:
        patch(module)
    except Exception as error:
        _warn(error)


def _warn(error: Exception) -> None:
    sys.stderr.write(f"sage-eval: lm-eval goes on without part of the sage tasks and model: {error!r}\n")


class _PostImport:
    """A finder that lets the others find a module and patches it once its code has run."""

    busy = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        patch = _PATCHES.get(fullname)
        if patch is None or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _apply(patch, module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _PostImport()
