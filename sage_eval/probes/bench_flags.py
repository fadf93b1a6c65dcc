"""Flags that the benchmarks of engines share. Imports nothing heavy."""

from typing import Annotated

import typer

Model = Annotated[str | None, typer.Argument(help="model folder or hub id; only its config.json is needed for speed")]
Arms = Annotated[
    str, typer.Option(help="BACKEND or PREFILL+DECODE, settings after a colon: fa3,sage_attn+fa3:variant=int8-fp8")
]
Baseline = Annotated[str | None, typer.Option(help="the arm to compare with [default: the first]")]
Shape = Annotated[str | None, typer.Option(help="random weights of a published shape: llama-3.1-8b, llama-3.1-70b")]
Resident = Annotated[int | None, typer.Option(min=1, help="engines on the GPU at once [default: as many as fit]")]
Chunk = Annotated[int | None, typer.Option(help="chunked_prefill_size [default: SGLang's own]")]
LoadFormat = Annotated[
    str | None, typer.Option(help="SGLang's load_format [default: dummy where there are no weights]")
]
ModelArgs = Annotated[list[str] | None, typer.Option(help="name=value,… for all arms: any argument of SGLang's engine")]
Total = Annotated[float | None, typer.Option(help="seconds for all, engine starts included; the same command goes on")]
Shared = Annotated[bool, typer.Option("--shared-gpu", help="measure although another process is on the GPU")]
