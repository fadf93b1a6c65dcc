"""`sage-eval diagnose`, `balance`, `calibrate` and `stress`: what is read off a model, or made of it, beforehand."""

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
    output: Annotated[Path | None, typer.Option(help="file for the shift, such as shift.safetensors")] = None,
    balance: Annotated[Path | None, typer.Option(help="file for the balance, such as balance.safetensors")] = None,
    text: Text = None,
    tokens: Annotated[int, typer.Option(min=128, help="tokens of text, in windows of 2,048")] = 16_384,
    data_dir: DataDir = None,
) -> None:
    """Measure MODEL's mean keys (the shift that smooth_k=static subtracts) and its balance, and write them to files."""
    from sage_eval.calibrate.vectors import calibrate as measure
    from sage_eval.data.folder import use_data

    use_data(data_dir)
    found = measure(model, output, text, balance=balance, tokens=tokens)
    arguments = ""
    if output:
        largest = max(float(layer.abs().max()) for layer in found.shift.values())
        typer.echo(f"{output}: mean K of {len(found.shift)} layers over {int(found.metadata['tokens']):,} tokens")
        typer.echo(f"largest |mean| of a channel: {largest:.3g}")
        arguments += f" --smooth-k static --shift {output}"
    if balance:
        scaled = sum(int((head != 1).any()) for layer in found.balance.values() for head in layer)
        heads = sum(map(len, found.balance.values()))
        typer.echo(f"{balance}: balance of {len(found.balance)} layers; {scaled} of {heads} KV heads gain by it")
        arguments += f" --balance {balance}"
    typer.echo(f"text: {found.metadata['text']}")
    sys.stderr.write(f"now: sage-eval compare {model}{arguments}\n")


def balance(
    model: Model,
    output: Annotated[Path, typer.Argument(help="folder for the balanced checkpoint", show_default=False)],
    text: Text = None,
    tokens: Annotated[int, typer.Option(min=256, help="tokens of each of two windows of text")] = 2048,
    data_dir: DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="print balance.json instead of a table")] = False,
) -> None:
    """Write a copy of MODEL that computes the same, bit for bit, and loses less to INT8 attention.

    In each layer and KV head pairs of K's channels are divided by powers of two and the same pairs of Q multiplied, in
    the weights: any engine and any attention kernel can use the copy.
    """
    from statistics import fmean as mean

    from sage_eval.calibrate.balance import balance as make
    from sage_eval.data.folder import use_data

    use_data(data_dir)
    found = make(model, output, text, tokens=tokens)
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        lines = zip(found.before, found.rule, found.after, strict=True)
        typer.echo("| layer | as it is | square-root rule | balanced |\n| ---: | ---: | ---: | ---: |")
        for layer, errors in enumerate(lines):
            typer.echo(f"| {layer} | {' | '.join(f'{error:.4f}' for error in errors)} |")
        typer.echo(f"| mean | {mean(found.before):.4f} | {mean(found.rule):.4f} | {mean(found.after):.4f} |")
        typer.echo(f"\nRelative L2 error of the attention output, int8-fp16, on held-out text: {found.text}.")
    sys.stderr.write(
        f"{output}: logits in bf16 are {model}'s in every bit; now: sage-eval compare {output} --candidate sage_attn\n"
    )


def diagnose(
    model: Model,
    text: Text = None,
    tokens: Annotated[int, typer.Option(min=256, help="the longest length that is looked at")] = 2048,
    divergence: Annotated[
        int, typer.Option(min=0, help="also run N further texts with SageAttention in place, and measure KL divergence")
    ] = 0,
    output: Annotated[Path | None, typer.Option(help="folder for diagnosis.json, .md and .svg")] = None,
    data_dir: DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="print diagnosis.json instead of tables")] = False,
) -> None:
    """Say which layers of MODEL SageAttention damages, why, and what balancing cures: minutes, no engine, no GPU."""
    from sage_eval.calibrate.diagnose import diagnose as examine
    from sage_eval.data.folder import use_data
    from sage_eval.render.figures import to_svg
    from sage_eval.report import diagnosis as page
    from sage_eval.store.files import write_bytes, write_json

    use_data(data_dir)
    found = examine(model, text, tokens=tokens, divergence=divergence)
    typer.echo(found.model_dump_json(indent=1) if json else page.text(found), nl=json)
    if output:
        write_json(output / "diagnosis.json", found.model_dump(mode="json"))
        write_bytes(output / "diagnosis.md", page.text(found).encode())
        write_bytes(output / "diagnosis.svg", to_svg(page.figure(found)).alone().encode())


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
    from sage_eval.data.folder import use_data
    from sage_eval.errors import UsageError
    from sage_eval.report.doses import definition

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
