"""Loading lm-eval tasks by name or file, with errors that name the nearest ones."""

import contextlib
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_eval.compare.draws import keep_items, seeded
from sage_eval.errors import DataError, SageEvalError, UsageError
from sage_eval.parsing import nearest


def load_tasks(
    names: Iterable[str],
    tokenizer: str,
    task_args: Mapping[str, Any],
    include_path: Sequence[Path] = (),
    seed: int = 0,
) -> tuple[Any, dict[str, Any]]:
    """The task manager (`tokenizer` and `task_args` reach the tasks as metadata), its `load` answering with what was
    loaded here, and the leaf tasks by name. What tasks draw at random comes from `seed`.

    A name may be that of a YAML file, also of a group, whose members are looked for in its folder first. Raises
    `UsageError` for the unknown name of a task or argument, and `DataError` where a data set cannot be read.
    """
    names = list(names)
    for folder in include_path:
        if not folder.is_dir():
            raise UsageError(f"--include-path {folder} is not a folder")
    files = [name for name in names if _is_file(name)]
    groups = {name: group for name in files if (group := _group(name))}
    paths = [*include_path, *dict.fromkeys(Path(name).parent for name in groups)]
    metadata = {"tokenizer": tokenizer, **task_args}
    # lm-eval takes the members of a group in a file for its name.
    wanted = [groups.get(name, name) for name in names]
    manager = _manager([name for name in wanted if name not in files], paths, metadata)
    known = manager.all_tasks
    for name in wanted:
        if name not in files and name not in known and not manager.match_tasks([name]):
            raise UsageError(f"unknown task {name!r}{nearest(name, known)} (`lm_eval ls tasks` lists lm-eval's own)")
    try:
        # Tasks tell of their progress on stdout, which is the command's result.
        with seeded(seed), contextlib.redirect_stdout(sys.stderr):
            loaded = manager.load(wanted)
    except SageEvalError:
        raise
    except Exception as error:  # whatever `datasets` or a task's own loader raises for a broken or absent data set
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot load {', '.join(names)}: {first}; see --data-dir and `sage-eval prepare`") from error
    _refuse_unknown(task_args, loaded["tasks"])
    keep_items(loaded["tasks"].values())
    # simple_evaluate would load everything a second time.
    manager.load = lambda _names: loaded
    return manager, dict(loaded["tasks"])


def task_files(names: Iterable[str], include_path: Iterable[Path]) -> str | None:
    """SHA-256 over the user's own task files, wherever they lie; None where there are none."""
    found = [(path.relative_to(folder), path) for folder in include_path for path in sorted(folder.rglob("*"))
             if path.suffix in (".yaml", ".yml", ".py")]  # fmt: skip
    for name in filter(_is_file, names):
        # A file includes others, and its functions and a group's members lie beside it.
        around = sorted(p for p in Path(name).parent.iterdir() if p.suffix in (".yaml", ".yml", ".py"))
        found += [(Path(path.name), path) for path in around]
    if not found:
        return None
    digests = [f"{relative} {hashlib.sha256(path.read_bytes()).hexdigest()}" for relative, path in found]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def _manager(names: Sequence[str], paths: Sequence[Path], metadata: dict[str, Any]) -> Any:
    """With lm-eval's own 14,000 tasks only where a name, or a member of a group of the user's, is not found without."""
    from sage_eval.lm_eval_hook import task_manager

    manager = task_manager(["sage_"], metadata=metadata, include_path=paths)
    missing = {*names, *_members(manager, names)} - {*manager.all_tasks}
    return task_manager([*missing], metadata=metadata, include_path=paths) if missing else manager


def _members(manager: Any, names: Iterable[str]) -> Iterator[str]:
    """The names of all tasks and groups below those of `names` that are groups."""
    for name in names:
        entry = manager.task_index.get(name)
        members = entry.cfg.get("task") if entry and entry.cfg else None
        for member in members if isinstance(members, list) else ():
            found = member if isinstance(member, str) else member.get("task") or member.get("group")
            if isinstance(found, str) and found != name:
                yield found
                yield from _members(manager, [found])


def _group(file: str) -> str | None:
    """The name of the group that a YAML file defines; None for a task's."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        name = load_yaml(Path(file).resolve(), resolve_func=False).get("group")
    except Exception as error:  # whatever a broken file makes the YAML reader raise
        raise UsageError(f"{file} is not a task file: {' '.join(str(error).split())}") from None
    return name if isinstance(name, str) else None


def _refuse_unknown(task_args: Iterable[str], tasks: Mapping[str, Any]) -> None:
    """Only a task's own loader sees the arguments; ours say which they take, and another one may take any."""
    loaders = [loader for task in tasks.values() if (loader := task.get_config("custom_dataset"))]
    if all(hasattr(loader, "task_args") for loader in loaders):
        valid = dict.fromkeys(name for loader in loaders for name in loader.task_args)
        for name in task_args:
            if name not in valid:
                takes = f"valid: {', '.join(valid)}" if valid else "they take none"
                raise UsageError(f"no task of this run takes --task-args {name}=…{nearest(name, valid)}; {takes}")
