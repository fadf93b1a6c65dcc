"""`sage-eval quick`: a running server, checked. Prints, nothing else."""

from typing import Any

import typer

from sage_eval.cli.flags import Json, parse, say
from sage_eval.measure.quick.plan import QuickPlan


def quick(given: dict[str, Any], json: Json = False) -> None:
    """Check a running SGLang server in about five minutes, whoever started it: sage-eval quick --port 30000.

    Asks for its health, what it serves, log-probabilities, determinism, speed, retrieval, memory and the share of
    SageAttention. Its prefix cache is emptied meanwhile. Exit code 0: fine, 1: not fine, 2: could not tell. A server
    that wants a key is given SGLANG_API_KEY, or else OPENAI_API_KEY.
    """
    from sage_eval.measure.quick.judge import exit_code
    from sage_eval.measure.quick.run import check
    from sage_eval.measure.quick.view import view
    from sage_eval.report.measurements import text

    record, earlier = check(parse(QuickPlan, given), say)
    typer.echo(record.model_dump_json(indent=1) if json else text(view(record, earlier), folded=False), nl=json)
    raise typer.Exit(exit_code(record.checks))
