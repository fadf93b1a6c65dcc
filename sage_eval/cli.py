"""The `sage-eval` command: parses, calls a function that also works from Python, prints its result.

stdout is the result, stderr is for people. Exit codes: 0 fine, 1 a gate failed or the engine did, 2 usage or a missing
prerequisite, 130 interrupted. Heavy imports happen inside the commands, so that `--help` is instant.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_eval import __version__
from sage_eval.attention.settings import AttentionSettings
from sage_eval.cli_calibrate import calibrate, stress
from sage_eval.cli_probe import probe
from sage_eval.cli_report import report, show
from sage_eval.config import RunConfig
from sage_eval.errors import PrerequisiteError, SageEvalError
from sage_eval.probes.rate.command import rate
from sage_eval.probes.scoring.command import scoring
from sage_eval.probes.serving.command import memory, serving

EPILOG = """Examples:\n
\n
sage-eval compare MODEL --candidate sage_attn --tasks sage_wikitext,sage_mmlu --limit 100\n
\n
sage-eval compare MODEL --variant int8-fp8 --min sage_mmlu=0.60 --output results/fp8\n
\n
sage-eval compare MODEL --calibrate --margin sage_mmlu=0.01 --fail-on worse,inconclusive\n
\n
sage-eval report results/fp8
"""

app = typer.Typer(
    name="sage-eval",
    help="Compare SageAttention with another attention backend of the same model, in SGLang: scores, paired.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _help(name: str, model: type[Any] = RunConfig) -> str:
    return str(model.model_fields[name].description)


def _setting(name: str, *flags: str) -> Any:
    return typer.Option(*flags, help=_help(name, AttentionSettings), rich_help_panel="sage_attn")


Json = Annotated[bool, typer.Option("--json", help="print comparison.json instead of tables")]


@app.command(epilog=EPILOG)
def compare(  # noqa: PLR0913, PLR0917 - one parameter a flag
    model: Annotated[str | None, typer.Argument(help=_help("model"), show_default=False)] = None,
    candidate: Annotated[str | None, typer.Option(help=_help("candidate") + " [default: sage_attn]")] = None,
    baseline: Annotated[str | None, typer.Option(help=_help("baseline"))] = None,
    tasks: Annotated[str | None, typer.Option(help=_help("tasks"))] = None,
    limit: Annotated[int | None, typer.Option(help=_help("limit"))] = None,
    mode: Annotated[str | None, typer.Option(help=_help("mode") + " [default: fidelity]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help=_help("data_dir"))] = None,
    output: Annotated[Path | None, typer.Option(help=_help("output"))] = None,
    minimum: Annotated[list[str] | None, typer.Option("--min", help=_help("min"))] = None,
    arms: Annotated[
        list[str] | None, typer.Option(help=_help("arms"), rich_help_panel="Calibration and verdict")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="short for --arms repeat,exact,control", rich_help_panel="Calibration and verdict"
        ),
    ] = False,
    margin: Annotated[
        list[str] | None, typer.Option(help=_help("margin"), rich_help_panel="Calibration and verdict")
    ] = None,
    fail_on: Annotated[
        list[str] | None, typer.Option(help=_help("fail_on"), rich_help_panel="Calibration and verdict")
    ] = None,
    top_logprobs: Annotated[int | None, typer.Option(help=_help("top_logprobs") + " [default: 16]")] = None,
    model_args: Annotated[list[str] | None, typer.Option(help=_help("model_args"))] = None,
    task_args: Annotated[list[str] | None, typer.Option(help=_help("task_args"))] = None,
    parallel: Annotated[int | None, typer.Option(help=_help("parallel") + " [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(help=_help("seed"))] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these settings")] = None,
    kernel: Annotated[str | None, _setting("kernel")] = None,
    variant: Annotated[str | None, _setting("variant")] = None,
    smooth_k: Annotated[str | None, _setting("smooth_k")] = None,
    shift: Annotated[Path | None, _setting("shift")] = None,
    decode: Annotated[str | None, _setting("decode")] = None,
    min_tokens: Annotated[int | None, _setting("min_tokens")] = None,
    strict: Annotated[bool | None, _setting("strict", "--strict/--no-strict")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="run all arms again, or keep finished ones")] = False,
    dry_run: Annotated[bool, typer.Option(help="list requests, tokens and a time estimate; start no engine")] = False,
    json: Json = False,
    lm: Annotated[str | None, typer.Option(help=_help("lm"), hidden=True)] = None,
) -> None:
    """Run MODEL with two attention backends on the same prompts and print the paired difference of every score.

    The arms run one after the other (see --parallel), each in a process of its own. An interrupted or failed call keeps
    the arms that are finished; the same command resumes. Settings come from flags, SAGE_EVAL_* variables and --config,
    in that order.
    """
    from sage_eval.config import CALIBRATE, from_sources

    if calibrate:
        arms = [*CALIBRATE, *(arms or [])]
    given = dict(locals())
    attention = {name: given[name] for name in AttentionSettings.model_fields if given[name] is not None}
    flags = {name: given[name] for name in RunConfig.model_fields if name in given}
    settings = from_sources({**flags, "min": minimum, "attention": attention or None}, file=config)
    if dry_run:
        from rich.console import Console

        from sage_eval.runs.plan import plan

        with Console(stderr=True).status("counting requests and tokens"):
            result = plan(settings)
        typer.echo(result.model_dump_json(indent=1) if json else result.text())
        return
    from rich.console import Console

    from sage_eval.probes.sections import found
    from sage_eval.report.terminal import Progress
    from sage_eval.runs import compare as runs

    progress = Progress(Console(stderr=True))
    run = runs.compare(settings, fresh=fresh, display=progress, argv=_state["argv"], measured=found)
    show(run, json=json)
    sys.stderr.write(f"run folder: {run.folder}\n")
    raise typer.Exit(0 if run.comparison.passed else 1)


app.command()(report)

_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("lm-eval", context_settings=_PASS_THROUGH, add_help_option=False)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval itself with our model and tasks known to it: all arguments are lm_eval's."""
    from sage_eval.lm_eval_hook import run_lm_eval

    raise typer.Exit(run_lm_eval(context.args))


@app.command()
def prepare(
    data_dir: Annotated[Path, typer.Option(help="folder to fill; what it has already stays")],
    model: Annotated[str | None, typer.Option(help="also fetch this model (hub name), or copy this folder")] = None,
    datasets: Annotated[str, typer.Option(help="parts to fetch: wikitext2, mmlu, haystack")] = "wikitext2,mmlu",
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of the model [default: main]")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="take the data from this folder, not the hub")] = None,
) -> None:
    """Fetch data sets and a model and pin them by SHA-256; afterwards everything runs with HF_HUB_OFFLINE=1."""
    from sage_eval.data.prepare import prepare as run

    names = [name.strip() for name in datasets.split(",") if name.strip()]
    done = run(data_dir, model, datasets=names, revision=revision, source=source)
    for name, origin in done.sources.items():
        typer.echo(f"{name}: {origin.repository}{f' at {origin.revision}' if origin.revision else ''}")
    typer.echo(f"{len(done.files)} files, {sum(file.bytes for file in done.files.values()):,} bytes, all pinned")
    models = "".join(f" compare {data_dir / folder}" for folder in list(done.models.values())[:1])
    sys.stderr.write(f"now: SAGE_EVAL_DATA={data_dir} HF_HUB_OFFLINE=1 sage-eval{models or ' compare MODEL'}\n")


@app.command()
def doctor(
    bench: Annotated[
        Path | None,
        typer.Option(help="recommend settings from this file of `bench kernels`; measured first where it is missing"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what this machine has, which backends can run on it and, with --bench, which settings to choose."""
    from sage_eval.cli_doctor import examine, text

    found = examine(bench)
    if json:
        import json as encoder

        typer.echo(encoder.dumps(found, indent=1))
    else:
        typer.echo(text(found))
    if not any(backend["runs"] for backend in found["backends"]):
        raise PrerequisiteError("no attention backend can run here: install sglang and torch for this machine")


app.command()(calibrate)
app.command()(stress)

bench = typer.Typer(help="Measure speed; what the hardware allows is measured and printed first.", no_args_is_help=True)
app.add_typer(bench, name="bench")
app.add_typer(probe, name="probe")


@bench.command()
def kernels(
    out: Annotated[Path, typer.Option(help="JSON lines, appended as they are measured; what is there is kept")],
    columns: Annotated[str, typer.Option(help="kernels, separated by commas [default: all]")] = "",
    cases: Annotated[str, typer.Option(help="cases such as 'd128 4x4096', separated by ';' [default: all]")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="times that each case's kernels are timed in turn")] = 3,
    budget: Annotated[float, typer.Option(min=0, help="seconds after which no further case is begun")] = float("inf"),
) -> None:
    """Time prefill attention kernels side by side on this GPU, quantisation included."""
    from sage_eval.probes.bench_kernels import measure, split

    typer.echo(measure(out, split(columns, ","), split(cases, ";"), rounds, budget), nl=False)


bench.command()(serving)
bench.command()(memory)
bench.command()(rate)
bench.command()(scoring)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


_state: dict[str, list[str]] = {"argv": []}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error of this project is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _state["argv"] = arguments
    warnings.showwarning = lambda message, *_args, **_kwargs: _complain(f"warning: {message}")
    try:
        app(args=arguments, prog_name="sage-eval", standalone_mode=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == 130:
            kept = "; finished arms are kept, the same command resumes" if arguments[:1] == ["compare"] else ""
            _complain("interrupted" + kept)
        return code
    except SageEvalError as error:
        _complain(f"error: {' '.join(str(error).split())}")
        return error.exit_code
    return 0


def _complain(text: str) -> None:
    sys.stderr.write(f"sage-eval: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
