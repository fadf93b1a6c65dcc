"""The commands `sage-eval bench serving` and `bench memory`. Imports nothing heavy."""

import json as encoder
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_eval.errors import UsageError
from sage_eval.probes.bench_flags import (
    Arms,
    Baseline,
    Chunk,
    LoadFormat,
    Model,
    ModelArgs,
    Resident,
    Shape,
    Shared,
    Total,
)
from sage_eval.probes.flags import Json, pairs, say

Lengths = Annotated[str, typer.Option(help="input tokens, separated by commas")]
Longest = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="skip what would take more seconds in one run; after ten times as many and 600 an answer is given up",
    ),
]
Output = Annotated[Path | None, typer.Option(help="run folder [default: results/serving-MODEL or memory-MODEL]")]


def serving(  # noqa: PLR0913, PLR0917 - one parameter a flag
    model: Model = None,
    arms: Arms = "triton,sage_attn",
    baseline: Baseline = None,
    shape: Shape = None,
    lengths: Lengths = "128,1024,4096,8192,32768,131072",
    batches: Annotated[
        str, typer.Option(help="sequences decoded at once, separated by commas; '' for none")
    ] = "1,8,32,128",
    packed_tokens: Annotated[
        int, typer.Option(min=0, help="prompts of one length at once, up to so many tokens")
    ] = 16384,
    decode_context: Annotated[int, typer.Option(min=1, help="prompt tokens of each decoded sequence")] = 256,
    decode_steps: Annotated[int, typer.Option(min=3, help="new tokens of each decoded sequence")] = 65,
    mixed: Annotated[int, typer.Option(min=0, help="requests of mixed lengths, all at once; 0 for none")] = 64,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="for each cell, all arms together; one round in any case")
    ] = 10.0,
    longest: Longest = 30.0,
    profile: Annotated[
        float, typer.Option(min=0, help="profile runs of up to so many seconds, after all timing; 0 for none")
    ] = 15.0,
    total: Total = None,
    resident: Resident = None,
    chunk: Chunk = None,
    load_format: LoadFormat = None,
    model_args: ModelArgs = None,
    output: Output = None,
    shared_gpu: Shared = False,
    json: Json = False,
) -> None:
    """Time prefill and decode of several attention backends side by side; engines take turns on one GPU.

    What is finished is kept: the same command goes on where an earlier one was cut short. Speed needs no weights:
    --shape, or a model folder with a config.json alone.
    """
    _run(
        "serving", model, arms, baseline=baseline, shape=shape, lengths=_sizes(lengths), batches=_sizes(batches),
        packed_tokens=packed_tokens, decode_context=decode_context, decode_steps=decode_steps, mixed=mixed,
        seconds=seconds, longest=longest, profile=profile, total=total, resident=resident, chunk=chunk,
        load_format=load_format, model_args=model_args, output=output, shared_gpu=shared_gpu, json=json,
    )  # fmt: skip


def memory(  # noqa: PLR0913, PLR0917 - one parameter a flag
    model: Model = None,
    arms: Arms = "triton,sage_attn",
    baseline: Baseline = None,
    shape: Shape = None,
    lengths: Lengths = "1024,8192,32768,131072",
    longest: Longest = 30.0,
    total: Total = None,
    resident: Resident = None,
    chunk: Chunk = None,
    load_format: LoadFormat = None,
    model_args: ModelArgs = None,
    output: Output = None,
    shared_gpu: Shared = False,
    json: Json = False,
) -> None:
    """Weights, KV cache and the peak of each prefill, per backend, as the engine's own process counts them."""
    _run(
        "memory", model, arms, baseline=baseline, shape=shape, lengths=_sizes(lengths), batches=(), packed_tokens=0,
        mixed=0, profile=0.0, seconds=0.0, longest=longest, total=total, resident=resident, chunk=chunk,
        load_format=load_format, model_args=model_args, output=output, shared_gpu=shared_gpu, json=json,
    )  # fmt: skip


def _run(kind: Any, model: str | None, arms: str, *, json: bool, **options: Any) -> None:
    import shlex

    from sage_eval.probes.arms import parse_arms
    from sage_eval.probes.crew import failed
    from sage_eval.probes.serving.run import bench
    from sage_eval.probes.serving.table import render

    options["model_args"] = pairs("model-args", options["model_args"])
    if options["load_format"] is None:
        del options["load_format"]
    command = shlex.join(["sage-eval", *sys.argv[1:]])
    found, folder = bench(kind, model, arms, command=command, say=say, **options)
    typer.echo(encoder.dumps(found.model_dump(mode="json"), indent=1) if json else render(found), nl=json)
    say(f"run folder: {folder}")
    raise typer.Exit(int(failed(found.arms, (arm.name for arm in parse_arms(arms)))))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{text!r}: whole numbers separated by commas are needed") from None
