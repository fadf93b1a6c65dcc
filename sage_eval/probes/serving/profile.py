"""An arm's process profiles one run of its engine: SGLang's profiler writes a trace, which is read and deleted."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage_eval.engine.local import LocalEngine
from sage_eval.engine.scheduler_profile import EAGER, SERVED
from sage_eval.errors import DataError
from sage_eval.probes.serving import trace
from sage_eval.probes.serving.shares import TOLERATED, Kind, learn, times, unplaced


def profile(engine: LocalEngine, kind: Kind, run: Callable[[], object]) -> dict[str, Any]:
    """`times` of one `run`, as `record.Times` has them, or `error` where the trace tells nothing.

    Where the device replayed graphs, a second run without them shows which kernels belong to which layers.
    `EngineError` where the engine failed.
    """
    try:
        served = _traced(engine, SERVED, run)
        learned = None
        if unplaced(served, kind) > TOLERATED:
            learned = learn(_traced(engine, EAGER, run), kind)
        return {"times": times(served, kind, learned).model_dump()}
    except DataError as error:
        return {"error": str(error)}


def _traced(engine: LocalEngine, label: str, run: Callable[[], object]) -> trace.Trace:
    with tempfile.TemporaryDirectory(prefix="sage-eval-trace-") as folder:
        with engine.profiled(Path(folder), label):
            run()
        return trace.read(Path(folder), label, gpu=engine.info()["device"] != "cpu")
