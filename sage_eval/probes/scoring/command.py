"""The command `sage-eval bench scoring`. Imports nothing heavy."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_eval.errors import UsageError
from sage_eval.probes.bench_flags import Arms, Model, ModelArgs, Shape, Shared
from sage_eval.probes.flags import DataDir, Json, pairs, say

PARTS = ("evaluation", "rate", "client")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
"""A model folder without any of these is served with random weights."""


def scoring(  # noqa: PLR0913, PLR0917 - one parameter a flag
    model: Model = None,
    shape: Shape = None,
    arms: Arms = "triton",
    parts: Annotated[
        str | None,
        typer.Option(help="of evaluation, rate, client [default: all; rate,client where there is no tokenizer]"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="with --shape: the model whose tokenizer the evaluation uses")
    ] = None,
    models: Annotated[
        str, typer.Option(help="lm-eval models to compare, on the first of --arms")
    ] = "sglang-sage:throughput,sglang-sage:fidelity,sglang,vllm,hf",
    tasks: Annotated[
        str, typer.Option(help="TASK=DOCUMENTS,…; of a group, so many documents of each of its tasks")
    ] = "sage_mmlu_anatomy=135,sage_wikitext=8,sage_retrieval_single=20",
    task_args: Annotated[list[str] | None, typer.Option(help="name=value,… for the tasks, as for `compare`")] = None,
    window: Annotated[int, typer.Option(min=64, help="longest text in one piece, in tokens")] = 4096,
    resident: Annotated[int, typer.Option(min=1, help="models that start together; measured one after the other")] = 1,
    prompts: Annotated[int, typer.Option(min=1, help="rate: prompts of a pass")] = 400,
    prompt_tokens: Annotated[int, typer.Option(min=8, help="rate: tokens of a prompt, on average")] = 700,
    rounds: Annotated[int, typer.Option(min=1, help="rate: passes of each kind")] = 3,
    modes: Annotated[str, typer.Option(help="rate: fidelity, throughput, or both")] = "fidelity",
    requests: Annotated[str, typer.Option(help="client: numbers of requests")] = "10000,100000",
    model_args: ModelArgs = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(help="of prompts and few-shot samples")] = 0,
    output: Annotated[Path | None, typer.Option(help="run folder [default: results/scoring-MODEL]")] = None,
    shared_gpu: Shared = False,
    json: Json = False,
) -> None:
    """Time evaluations: this adapter beside other lm-eval models, scoring beside plain prefill, and the client alone.

    --parts chooses: `evaluation` (same tasks, same weights, a process each, equal scores required but of random
    weights), `rate` (uncached tokens/s as a share of the same engine's without log-probabilities) and `client` (its
    memory by number of requests). For the prefix cache a subject should come whole and be large: on a GPU its first
    20,000 tokens or so are in flight together and find nothing there.
    """
    from sage_eval.probes.arms import parse_arms
    from sage_eval.probes.scoring import columns, table
    from sage_eval.probes.scoring import tokenizer as tokenizers
    from sage_eval.probes.scoring.plan import Plan
    from sage_eval.probes.scoring.run import bench
    from sage_eval.probes.shape import write_shape
    from sage_eval.runs.manifest import find_model

    if (model is None) == (shape is None):
        raise UsageError("give either a model or --shape for random weights")
    if tokenizer and not shape:
        raise UsageError("--tokenizer is for --shape: a model folder has its own")
    folder = output or Path("results") / f"scoring-{shape or Path(str(model)).name}"
    source = write_shape(shape, folder / "model") if shape else find_model(str(model))
    if tokenizer:
        tokenizers.lend(tokenizer, source)
    everything = ",".join(PARTS if tokenizers.present(source) else PARTS[1:])
    plan = Plan(
        model=source.resolve(),
        name=shape or source.resolve().name,
        parts=_of("parts", parts or everything, PARTS),
        arms=parse_arms(arms),
        models=_of("models", models, columns.MODELS),
        tasks=_limits(tasks),
        task_args=pairs("task-args", task_args),
        window=window,
        data_dir=data_dir.resolve() if data_dir else None,
        resident=resident,
        prompts=prompts,
        prompt_tokens=prompt_tokens,
        rounds=rounds,
        modes=_of("modes", modes, ("fidelity", "throughput")),
        requests=_numbers(requests),
        dummy=not any(path for pattern in WEIGHTS for path in source.glob(pattern)),
        model_args=pairs("model-args", model_args),
        seed=seed,
    )
    command = shlex.join(["sage-eval", *sys.argv[1:]])
    found = bench(plan, folder, shared_gpu=shared_gpu, command=command, say=say)
    typer.echo(found.model_dump_json(indent=1) if json else table.text(found), nl=json)
    say(f"run folder: {folder}")
    raise typer.Exit(1 if table.failures(found) else 0)


def _of(flag: str, text: str, known: tuple[str, ...]) -> Any:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if odd := next((name for name in names if name not in known), None):
        raise UsageError(f"--{flag} {odd}: known are {', '.join(known)}")
    if not names:
        raise UsageError(f"--{flag}: name at least one of {', '.join(known)}")
    return list(dict.fromkeys(names))


def _limits(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or not all(limit.isdigit() and int(limit) for _, _, limit in pairs):
        raise UsageError(f"--tasks {text!r}: write TASK=DOCUMENTS, separated by commas")
    return {name.strip(): int(limit) for name, _, limit in pairs}


def _numbers(text: str) -> list[int]:
    try:
        return [max(1, int(part)) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--requests {text!r}: whole numbers separated by commas are needed") from None
