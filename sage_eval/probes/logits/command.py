"""The command `sage-eval probe logits`. Imports nothing heavy."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sage_eval.probes.flags import DataDir, Json, Model, ModelArgs, Output, pairs, say


def logits(  # noqa: PLR0913, PLR0917 - one parameter a flag
    model: Model,
    arms: Annotated[
        str,
        typer.Option(
            help="BACKEND[+DECODE][:setting=value,…], separated by commas; the first is the baseline, and the same "
            "again (triton,triton+triton) the floor"
        ),
    ],
    positions: Annotated[int, typer.Option(min=1, help="in all, sampled over length classes and depths")] = 4096,
    prompts: Annotated[int, typer.Option(min=1, help="of each length class: short, medium, long")] = 32,
    longest: Annotated[int, typer.Option(min=64, help="tokens of the longest prompt")] = 8192,
    continuations: Annotated[int, typer.Option(min=0, help="prompts (short and medium) that are continued")] = 32,
    generated: Annotated[int, typer.Option(min=0, help="greedy tokens after each of them; 0: none")] = 64,
    seed: Annotated[int, typer.Option(help="of the choice of texts and positions")] = 0,
    text: Annotated[
        list[Path] | None, typer.Option(help="file with one document; repeat it [default: WikiText-2's test set]")
    ] = None,
    model_args: ModelArgs = None,
    data_dir: DataDir = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Compare the next-token distributions of the whole vocabulary, and greedy texts, of several arms."""
    from sage_eval.probes.logits import table
    from sage_eval.probes.logits.run import Options, measure
    from sage_eval.runs.arm import use_data

    use_data(data_dir)
    common = pairs("model-args", model_args)
    options = Options(positions, prompts, longest, seed, continuations, generated, tuple(text or ()), common)
    command = shlex.join(["sage-eval", *sys.argv[1:]])
    record, folder = measure(model, arms, options, output=output, command=command, say=say)
    typer.echo(record.model_dump_json(indent=1) if json else table.text(record), nl=json)
    say(f"run folder: {folder}")
    raise typer.Exit(1 if any(arm.error for arm in record.arms) else 0)
