"""One engine, or none, in a process of its own; a command a line on stdin, a line of JSON on stdout for each.

The first line says what to open: `lm`, an lm-eval model; `arm`, an engine to be rated; `client`, nothing.
"""

import os
import time
import traceback
from typing import Any

from sage_eval.errors import SageEvalError
from sage_eval.probes.orders import commands, private_stdout, say


class _Model:
    """An lm-eval model that answers tasks."""

    def __init__(self, order: dict[str, Any]) -> None:
        from sage_eval.probes.scoring import columns
        from sage_eval.probes.scoring.stopwatch import Stopwatch
        from sage_eval.runs.arm import use_data

        use_data(order["data_dir"])
        os.environ.update(order["environment"])
        self._order, self._stopwatch = order, Stopwatch()
        self._lm = columns.open_model(order["name"], order["arguments"], self._stopwatch)

    def warm_up(self) -> dict[str, Any]:
        import torch

        from sage_eval.probes.scoring import evaluate

        return {"seconds": evaluate.warm_up(self._lm, evaluate.WARM_UP[torch.cuda.is_available()])}

    def task(self, **command: Any) -> dict[str, Any]:
        from sage_eval.probes.scoring import evaluate

        return evaluate.run_task(self._lm, self._stopwatch, model=self._order["model"], **command)

    def close(self) -> None:
        from sage_eval.probes.scoring import columns

        columns.close(self._lm)


class _Rated:
    """An engine that scores prompts, and prefills them plainly."""

    def __init__(self, order: dict[str, Any]) -> None:
        from sage_eval.engine.arm import open_arm
        from sage_eval.engine.options import ArmOptions

        self._arm = open_arm(ArmOptions.from_arguments(order["model"], **order["arguments"]))

    def told(self) -> dict[str, Any]:
        from sage_eval.probes.told import told

        return {"engine": told(self._arm.info())}

    def round(self, *, count: int, tokens: int, vocabulary: int, seed: int, scored_first: bool) -> dict[str, Any]:
        from sage_eval.probes.scoring import rate

        prompts = rate.make_prompts(count, tokens, vocabulary, seed)
        return rate.measure(self._arm, prompts, scored_first=scored_first).model_dump()

    def close(self) -> None:
        self._arm.close()


class _Client:
    """A client whose engine answers at once."""

    def __init__(self, order: dict[str, Any]) -> None:
        del order

    def score(self, requests: int, seed: int) -> dict[str, Any]:
        from sage_eval.probes.scoring import echo

        return echo.measure(requests, seed).model_dump()

    def close(self) -> None:
        """Nothing is open."""


KINDS: dict[str, type[_Model | _Rated | _Client]] = {"lm": _Model, "arm": _Rated, "client": _Client}


def main() -> None:
    """Open, obey, close. What a command raises is its answer, and the next one may follow; its traceback is logged."""
    replies, orders = private_stdout(), commands()
    worker: _Model | _Rated | _Client | None = None
    try:
        order = orders.get()
        start = time.perf_counter()
        worker = KINDS[order["kind"]](order)
        say(replies, {"seconds": time.perf_counter() - start})
        while (command := orders.get()).pop("do") != "close":
            try:
                say(replies, getattr(worker, command.pop("what"))(**command))
            except Exception as error:
                say(replies, _failure(error))
    except Exception as error:
        say(replies, _failure(error))
    finally:
        if worker:
            worker.close()


def _failure(error: Exception) -> dict[str, Any]:
    """An error of this project by its class, any other one (lm-eval's models raise what they like) as the engine's."""
    if isinstance(error, SageEvalError):
        return {"error": " ".join(str(error).split()), "type": type(error).__name__}
    traceback.print_exc()
    text = " ".join((str(error).strip() or "no message").split())[:300]
    return {"error": f"{type(error).__name__}: {text}", "type": "EngineError"}


if __name__ == "__main__":
    main()
