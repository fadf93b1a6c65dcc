"""Opening an arm, planning its requests, telling its failures apart. The room's public names are imported lazily.

```python
with open_arm(ArmOptions.from_arguments("path/or/name", attention_backend="sage_attn")) as arm:
    scores = arm.score([ScoreRequest(context=(1, 2, 3), continuation=(4, 5))])
```
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Arm": "arm",
    "ArmOptions": "options",
    "Coverage": "coverage",
    "GenerateRequest": "requests",
    "Generation": "requests",
    "Score": "requests",
    "ScoreRequest": "requests",
    "coverage_delta": "coverage",
    "open_arm": "arm",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
