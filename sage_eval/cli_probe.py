"""`sage-eval probe`: what lm-eval does not measure."""

import functools
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
    from model_adapters._tokens import Tokens
    from sage_eval.data.wikitext import documents, load_raw
    from sage_eval.engine.arm import open_arm
    from sage_eval.engine.options import ArmOptions
    from sage_eval.probes import determinism as probes
    from sage_eval.probes.arms import parse_arms
    from sage_eval.runs.arm import use_data
    from sage_eval.runs.files import write_json
    from sage_eval.runs.manifest import find_model

    use_data(data_dir)
    common = {"max_length": tokens + generated, **pairs("model-args", model_args)}
    wanted = {arm.name: common | arm.arguments for arm in parse_arms(arms)}
    for arguments in wanted.values():
        ArmOptions.from_arguments(model, **arguments)  # whatever is wrong is said before an engine starts
    folder = output or Path("results") / f"determinism-{find_model(model).resolve().name}"

    def opened(arguments: dict[str, object], **more: object) -> object:
        return open_arm(ArmOptions.from_arguments(model, **arguments, **more))

    tokenizer = Tokens.load(model, add_bos=None, prefix=None)
    chosen = probes.cut([tokenizer.encode(page) for page in documents(load_raw("test"))], prompts, tokens)
    done: list[probes.ArmResult] = []
    engines = [(name, functools.partial(opened, arguments)) for name, arguments in wanted.items()]
    for result in probes.probe(engines, chosen, chunk=chunk, generated=generated):  # type: ignore[arg-type]
        done.append(result)
        say(f"{result.arm}: done")
        whole = probes.Determinism(model=model, tokens=tokens, chunk=chunk, generated=generated, arms=done)
        write_json(folder / probes.DETERMINISM, whole.model_dump(mode="json"))
    typer.echo(whole.model_dump_json(indent=1) if json else probes.text(whole), nl=json)
    say(f"run folder: {folder}")


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
    import shlex

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
