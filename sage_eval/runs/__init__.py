"""Running a comparison and reading it back.

```python
from sage_eval.runs import load
run = load("results/demo")
run.arms["candidate"].samples[0].metrics
```
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_eval.runs.folder import Run, load

__all__ = ["Run", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sage_eval.runs import folder

        return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
