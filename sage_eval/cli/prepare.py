"""`sage-eval prepare`: data and a model, fetched and pinned. Imports nothing heavy."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    data_dir: Annotated[Path, typer.Option(help="folder to fill; what it has already stays")],
    model: Annotated[str | None, typer.Argument(help="also fetch this model (hub name), or copy this folder")] = None,
    datasets: Annotated[str, typer.Option(help="parts to fetch: wikitext2, mmlu, haystack")] = "wikitext2,mmlu",
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of the model [default: main]")] = None,
    tasks: Annotated[str, typer.Option(help="also fetch what these tasks of lm-eval's load: ruler,gsm8k,…")] = "",
    task_args: Annotated[str, typer.Option(help="name=value,… for tasks that take them, as for compare")] = "",
    source: Annotated[Path | None, typer.Option("--from", help="take the data from this folder, not the hub")] = None,
) -> None:
    """Fetch data sets and a model and pin them by SHA-256; afterwards everything runs with HF_HUB_OFFLINE=1."""
    from sage_eval.data.prepare import prepare as run
    from sage_eval.parsing import parse_pairs, split

    given = parse_pairs(task_args)
    done = run(data_dir, model, datasets=split(datasets), revision=revision, source=source)
    if wanted := split(tasks):
        from sage_eval.compare.fetch import fetch

        tokenizer = str(data_dir / done.models[model]) if model else None
        done = fetch(data_dir, wanted, tokenizer, given, source)
    for name, origin in done.sources.items():
        typer.echo(f"{name}: {origin.repository}{f' at {origin.revision}' if origin.revision else ''}")
    typer.echo(f"{len(done.files)} files, {sum(file.bytes for file in done.files.values()):,} bytes, all pinned")
    models = "".join(f" compare {data_dir / folder}" for folder in list(done.models.values())[:1])
    sys.stderr.write(f"now: SAGE_EVAL_DATA={data_dir} HF_HUB_OFFLINE=1 sage-eval{models or ' compare MODEL'}\n")
