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


def stress(
    model: Model,
    scale: Annotated[str, typer.Option(help="doses: powers of two, separated by commas; 1 is the model itself")] = (
        "1,4,16,64"
    ),
    output: Annotated[Path | None, typer.Option(help="folder for stress/DOSE [default: results/MODEL-stress]")] = None,
    tasks: Annotated[str, typer.Option(help="tasks of the command that is printed")] = "sage_wikitext",
    pairs: Annotated[int, typer.Option(min=1, max=2, help="pairs of channels to scale in each KV head")] = 1,
    text: Text = None,
    data_dir: DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="print doses.json instead of a table")] = False,
) -> None:
    """Write copies of MODEL that compute the same, bit for bit, and are harder to quantise; print their errors.

    In each layer and KV head the pair of K's channels with the largest outliers is scaled by the dose, and the same
    pair of Q by its inverse. What a benchmark sees of it is measured by the command that is printed last.
    """
    from sage_eval.calibrate.stress import stress as make
    from sage_eval.errors import UsageError
    from sage_eval.report.doses import definition
    from sage_eval.runs.arm import use_data

    try:
        scales = sorted({int(part) for part in scale.split(",")})
    except ValueError:
        raise UsageError(f"--scale {scale}: powers of two, separated by commas, such as 1,4,16,64") from None
    use_data(data_dir)
    target = output or Path("results") / f"{Path(model).name or 'model'}-stress"
    doses = make(model, scales, target, text, pairs=pairs)
    typer.echo(doses.model_dump_json(indent=1) if json else definition(doses))
    arms = ",".join(f"stress={dose}" for dose in scales)
    data = f" --data-dir {data_dir}" if data_dir else ""
    sys.stderr.write(
        f"checkpoints: {target / 'stress'}; measure them end to end, finding the smallest dose that is seen:\n"
        f"sage-eval compare {model} --tasks {tasks} --arms {arms},control{data} --output {target}\n"
    )
