"""`sage-eval probe`: what lm-eval does not measure."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sage_eval.probes.flags import Arms, Articles, DataDir, Json, Model, ModelArgs, Output, pairs, say
from sage_eval.probes.logits.command import logits

probe = typer.Typer(
    help="Measure what lm-eval does not: determinism, full logits, activation drift.", no_args_is_help=True
)
probe.command()(logits)


@probe.command()
def determinism(
    model: Model,
    arms: Arms,
    prompts: Articles = 8,
    tokens: Annotated[int, typer.Option(min=256, help="tokens of each")] = 2048,
    chunk: Annotated[int, typer.Option(min=1, help="chunked_prefill_size of the chunked way")] = 512,
    generated: Annotated[int, typer.Option(min=1, help="greedy tokens after each prompt")] = 32,
    model_args: ModelArgs = None,
    data_dir: DataDir = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Serve the same prompts alone, batched, shuffled, chunked and after a cached prefix, and compare the answers."""
    from sage_eval.probes.determinism.run import measure
    from sage_eval.probes.determinism.table import text
    from sage_eval.runs.arm import use_data

    use_data(data_dir)
    command = shlex.join(["sage-eval", *sys.argv[1:]])
    record, folder = measure(
        model, arms, prompts=prompts, tokens=tokens, chunk=chunk, generated=generated,
        common=pairs("model-args", model_args), output=output, command=command, say=say,
    )  # fmt: skip
    typer.echo(record.model_dump_json(indent=1) if json else text(record), nl=json)
    say(f"run folder: {folder}")
    raise typer.Exit(1 if any(arm.failure for arm in record.arms) else 0)


@probe.command()
def drift(
    model: Model,
    arms: Arms,
    prompts: Articles = 8,
    tokens: Annotated[int, typer.Option(min=128, help="tokens of each")] = 2048,
    one_engine: Annotated[
        bool,
        typer.Option("--one-engine", help="run the arms' kernels in the baseline's engine: one start, not one an arm"),
    ] = False,
    model_args: ModelArgs = None,
    data_dir: DataDir = None,
    output: Output = None,
    scratch: Annotated[Path | None, typer.Option(help="where the baseline's outputs lie meanwhile")] = None,
    json: Json = False,
) -> None:
    """Compare each layer's attention output with the baseline's, on the same inputs and in each arm's own run."""
    from sage_eval.probes.drift.run import run
    from sage_eval.probes.drift.table import text
    from sage_eval.runs.arm import use_data

    use_data(data_dir)
    record, folder = run(
        model, arms, prompts=prompts, tokens=tokens, one_engine=one_engine, common=pairs("model-args", model_args),
        output=output, scratch=scratch, command=shlex.join(["sage-eval", *sys.argv[1:]]), say=say,
    )  # fmt: skip
    typer.echo(record.model_dump_json(indent=1) if json else text(record), nl=json)
    say(f"run folder: {folder}")
    raise typer.Exit(1 if any(arm.error for arm in record.arms) else 0)
