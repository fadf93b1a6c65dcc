"""SGLang's load generator in a process of its own: a command on stdin is a run of `python -m sglang.bench_serving`.

Importing the generator takes longer than many a run, so it is done once. It keeps its arguments in a global variable,
which is harmless here: one run follows the other.
"""

import sys
from collections.abc import Callable
from typing import Any

from sage_eval.probes.orders import commands, private_stdout, say


def main() -> None:
    """Load, say so, then run after run until killed. A run that breaks off is an answer."""
    replies, orders = private_stdout(), commands()
    orders.get()
    from sglang.benchmark.serving import cli_main

    say(replies, {})
    while True:
        say(replies, _run(cli_main, orders.get()["arguments"]))


def _run(generator: Callable[[], object], arguments: list[str]) -> dict[str, Any]:
    sys.argv = ["sglang.bench_serving", *arguments]
    try:
        generator()
    except (Exception, SystemExit) as error:  # whatever it is: this run has no result, and the next one may have one
        said = " ".join(str(error).split())
        return {"error": f"SGLang's load generator gave up: {said[-500:]}", "type": "EngineError"}
    return {}


if __name__ == "__main__":
    main()
