"""The command `sage-eval bench rate`. Imports nothing heavy."""

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


def rate(  # noqa: PLR0913, PLR0917 - one parameter a flag
    model: Model = None,
    arms: Arms = "triton,sage_attn",
    baseline: Baseline = None,
    shape: Shape = None,
    rates: Annotated[
        str, typer.Option(help="requests a second, separated by commas; inf for all at once")
    ] = "1,2,4,8,16,inf",
    input_tokens: Annotated[int, typer.Option(min=1, help="prompt tokens of each request")] = 2048,
    output_tokens: Annotated[int, typer.Option(min=1, help="new tokens of each request")] = 64,
    requests: Annotated[int, typer.Option(min=2, help="at most, for each rate")] = 128,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="of a rate, about: fewer requests are sent at a low one")
    ] = 30.0,
    rehearsal: Annotated[
        float, typer.Option(min=0, help="seconds of requests that no one measures before each rate; 0 for none")
    ] = 5.0,
    running: Annotated[
        int, typer.Option(min=1, help="requests that a server has in work at once; the KV cache holds as many")
    ] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="times to measure each rate, with other requests")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="of prompts and of the gaps between requests")] = 0,
    total: Total = None,
    resident: Resident = None,
    chunk: Chunk = None,
    load_format: LoadFormat = None,
    model_args: ModelArgs = None,
    output: Annotated[Path | None, typer.Option(help="run folder [default: results/rate-MODEL]")] = None,
    shared_gpu: Shared = False,
    json: Json = False,
) -> None:
    """Time to first token over the request rate: an SGLang server an arm, under SGLang's own load generator.

    All arms get the same requests at the same moments. What is finished is kept: the same command goes on where an
    earlier one was cut short. Speed needs no weights: --shape, or a model folder with a config.json alone.
    """
    import shlex

    from sage_eval.probes.arms import parse_arms
    from sage_eval.probes.crew import failed
    from sage_eval.probes.rate.run import bench
    from sage_eval.probes.rate.table import render

    more: dict[str, Any] = {"model_args": pairs("model-args", model_args)}
    if load_format is not None:
        more["load_format"] = load_format
    found, folder = bench(
        model, arms, _rates(rates), shape=shape, baseline=baseline, input_tokens=input_tokens,
        output_tokens=output_tokens, requests=requests, seconds=seconds, rehearsal=rehearsal, running=running,
        repeats=repeats, seed=seed, total=total, resident=resident, chunk=chunk, output=output, shared_gpu=shared_gpu,
        command=shlex.join(["sage-eval", *sys.argv[1:]]), say=say, **more,
    )  # fmt: skip
    typer.echo(encoder.dumps(found.model_dump(mode="json"), indent=1) if json else render(found), nl=json)
    say(f"run folder: {folder}")
    raise typer.Exit(int(failed(found.arms, (arm.name for arm in parse_arms(arms)))))


def _rates(text: str) -> tuple[float | None, ...]:
    try:
        asked = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--rates {text!r}: numbers separated by commas are needed, or inf") from None
    return tuple(None if rate == float("inf") else rate for rate in asked)
