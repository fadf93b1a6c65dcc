"""SGLang's load generator in a process of its own: a command on stdin is a run of `python -m sglang.bench_serving`.

Importing the generator takes longer than many a run, so it is done once. It keeps its arguments in a global variable,
which is harmless here: one run follows the other.
"""

import sys
import traceback
from collections.abc import Callable
from typing import Any

from sage_eval.probes.orders import commands, private_stdout, say


def main() -> None:
    """Load, say so, then run after run until killed. A run that breaks off is an answer.

    That has no "error", which would be one of an arm: `gave_up` says why, and `own` that no server is to blame.
    """
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
        traceback.print_exc()
        return {"gave_up": f"{type(error).__name__}: {' '.join(str(error).split())[-500:]}", "own": _is_own(error)}
    return {}


def _is_own(error: BaseException) -> bool:
    """Whether it is one of files and memory here, and not of talking to a server."""
    from requests import RequestException

    return isinstance(error, (OSError, MemoryError)) and not isinstance(error, (RequestException, ConnectionError))


if __name__ == "__main__":
    main()
