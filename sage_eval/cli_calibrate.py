"""`sage-eval calibrate` and `sage-eval stress`: what is made of a model before it is compared."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="model folder or hub id", show_default=False)]
Text = Annotated[
    Path | None, typer.Option(help="UTF-8 file to calibrate on; default: a seeded slice of WikiText-2's validation set")
]
DataDir = Annotated[Path | None, typer.Option(help="folder with the data sets; default: the hub")]


def calibrate(
    model: Model,
    output: Annotated[Path, typer.Option(help="file to write, such as shift.safetensors")],
    text: Text = None,
    tokens: Annotated[int, typer.Option(min=128, help="tokens of text, in windows of 2,048")] = 16_384,
    data_dir: DataDir = None,
) -> None:
    """Measure MODEL's mean keys, the shift that smooth_k=static subtracts from K, and write them to a file."""
    from sage_eval.calibrate.shift import calibrate as measure
    from sage_eval.runs.arm import use_data

    use_data(data_dir)
    shift = measure(model, output, text, tokens=tokens)
    largest = max(float(layer.abs().max()) for layer in shift.layers.values())
    typer.echo(f"{output}: mean K of {len(shift.layers)} layers over {int(shift.metadata['tokens']):,} tokens")
    typer.echo(f"text: {shift.metadata['text']}; largest |mean| of a channel: {largest:.3g}")
    sys.stderr.write(f"now: sage-eval compare {model} --smooth-k static --shift {output}\n")
