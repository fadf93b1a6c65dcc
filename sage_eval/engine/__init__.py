"""Opening an arm, planning its requests, telling its failures apart.

```python
from sage_eval.engine.arm import open_arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import ScoreRequest

with open_arm(ArmOptions.from_arguments("path/or/name", attention_backend="sage_attn")) as arm:
    scores = arm.score([ScoreRequest(context=(1, 2, 3), continuation=(4, 5))])
```
"""
