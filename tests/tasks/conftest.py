from pathlib import Path
from typing import Any

import pytest

from sage_eval.lm_eval_hook import task_manager
from tests.data.conftest import small_data

__all__ = ["small_data"]


@pytest.fixture
def load(reference_model: Path) -> Any:
    """`load(names, **metadata)`: the tasks of that name, by lm-eval's own manager."""

    def loaded(*names: str, **metadata: Any) -> dict[str, Any]:
        manager = task_manager(names, metadata={"tokenizer": str(reference_model)} | metadata)
        return manager.load(list(names))

    return loaded


@pytest.fixture
def built_in() -> Any:
    """`built_in(folder, *names)`: lm-eval's own tasks of one of its folders, without a scan of all the others."""

    def loaded(folder: str, *names: str) -> dict[str, Any]:
        import lm_eval
        from lm_eval.tasks import TaskManager

        from sage_eval.lm_eval_hook import install

        install()
        path = Path(lm_eval.__file__).parent / "tasks" / folder
        return TaskManager(include_path=path, include_defaults=False).load(list(names))

    return loaded
