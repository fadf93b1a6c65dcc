"""lm-eval tasks on arms: run, pair, judge. The package can be called: `sage_eval.compare(MODEL, limit=100)`."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """Importing `sage_eval.compare.run` makes this module the package's attribute `compare`, which users call."""

    def __call__(self, model: Any, **settings: Any) -> Any:
        """`sage_eval.api.compare`, which is above this room."""
        return import_module("sage_eval.api").compare(model, **settings)


sys.modules[__name__].__class__ = _Package
