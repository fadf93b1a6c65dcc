"""Run folders and records on disk: schemas, provenance, and readers of every version ever written.

```python
from sage_eval.store import load
run = load("results/demo")
run.arms["candidate"].samples[0].metrics
```
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_eval.store.folder import Run, load

__all__ = ["Run", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sage_eval.store import folder

        return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
