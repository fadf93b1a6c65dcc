"""The recipe's command line; `python -m reference_model.recipe --help`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reference_model import recipe
from sage_eval.data import data_dir
from sage_eval.errors import SageEvalError, UsageError

if TYPE_CHECKING:
    from reference_model.recipe.prepare import Sources

HERE = Path(__file__).parents[1]
MINUTES = 8.1
"""Of training, where neither minutes nor steps are asked for: what made the weights on one H100."""


def parser() -> argparse.ArgumentParser:
    """Subcommands and their options."""
    top = argparse.ArgumentParser("python -m reference_model.recipe", description=recipe.__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True)

    sources = argparse.ArgumentParser(add_help=False)
    sources.add_argument("--corpus", type=Path, help="folder of text files; default: train_corpus of --tests")
    sources.add_argument("--tests", type=Path, default=data_dir(), help="data folder of `sage-eval prepare`, whose "
                         "test sets are kept out; default: SAGE_EVAL_DATA")  # fmt: skip
    sources.add_argument("--tokenizer", type=Path, help="an existing tokenizer.json; default: train one")

    training = argparse.ArgumentParser(add_help=False)
    length = training.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=0.0, help="the whole schedule, in minutes of training")
    length.add_argument("--steps", type=int, default=0, help="the whole schedule, in steps: reproducible")
    training.add_argument("--seconds", type=float, default=1e9, help="save and stop this command after so many")
    training.add_argument("--start", type=Path, help="folder of shards to begin from")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    training.add_argument("--decay", type=float, default=0.25, help="weight decay of the matrices")
    training.add_argument("--dropout", type=float, default=0.1, help="of what a layer adds, after the first stage")
    training.add_argument("--workers", type=int, default=0, help="processes that make batches")
    training.add_argument("--smoke", action="store_true", help="a tiny model and short rows, for a CPU")

    command = commands.add_parser("prepare", parents=[sources], help="text → tokenizer and token arrays")
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("train", parents=[training], help="arrays → weights and log")
    command.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    command.add_argument("--out", type=Path, required=True, help="with a state in it, that run is continued")
    command = commands.add_parser("export", help="weights and tokenizer → Hugging Face checkpoint")
    command.add_argument("--run", type=Path, required=True)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("all", parents=[sources, training], help="prepare, train, export")
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("evaluate", help="checkpoint → evaluation JSON")
    command.add_argument("--model", type=Path, default=HERE)
    command.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    command.add_argument("--out", type=Path, required=True, help="JSON file; parts that it has already are kept")
    command.add_argument("--parts", default="perplexity,retrieval,ladder")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    command.add_argument("--samples", type=int, default=200, help="in each cell")
    command.add_argument("--lengths", default="512,1024,2048,4096,8192")
    command.add_argument("--articles", type=int, default=0, help="of WikiText-2 test; default: all 62")
    command.add_argument("--seconds", type=float, default=1e9, help="begin no further cell after so many")
    command.add_argument("--workers", type=int, default=0, help="processes that make samples")
    command = commands.add_parser("card", help="JSON files → README.md and its figure")
    command.add_argument("--model", type=Path, default=HERE)
    return top


def run(options: argparse.Namespace) -> None:
    """What was asked for; each module is imported where it is used."""
    if options.command == "card":
        from reference_model.recipe.card import write_card

        write_card(options.model)
    elif options.command == "evaluate":
        from reference_model.recipe.evaluate import Plan, evaluate

        lengths = tuple(int(length) for length in options.lengths.split(","))
        plan = Plan(tuple(options.parts.split(",")), options.dtype, options.samples, lengths, options.articles,
                    options.seconds, options.workers)  # fmt: skip
        evaluate(options.model, options.data, options.out, plan)
    elif options.command == "export":
        from reference_model.recipe.export import export

        export(options.run, options.data, options.out)
    elif options.command == "prepare":
        from reference_model.recipe.prepare import prepare

        prepare(_sources(options), options.out)
    elif options.command == "train":
        _train(options, options.data, options.out)
    else:
        _all(options)


def _sources(options: argparse.Namespace) -> "Sources":
    from reference_model.recipe.prepare import Sources

    if not (options.corpus or options.tests):
        raise UsageError("no text: give --corpus, or --tests or SAGE_EVAL_DATA with a train_corpus folder in it")
    return Sources(options.corpus or options.tests / "train_corpus", options.tests, options.tokenizer)


def _train(options: argparse.Namespace, data: Path, out: Path) -> None:
    from reference_model.recipe.curriculum import SMOKE_STAGES
    from reference_model.recipe.settings import Settings
    from reference_model.recipe.smoke import SHAPE
    from reference_model.recipe.train import Run

    names = ("minutes", "steps", "seconds", "start", "seed", "rate", "decay", "dropout", "workers")
    settings = Settings(data, out, **{name: getattr(options, name) for name in names})
    settings.minutes = settings.minutes or (0.0 if settings.steps else MINUTES)
    if options.smoke:
        vocabulary = settings.shape.vocab_size
        settings = replace(settings, stages=SMOKE_STAGES, shape=replace(SHAPE, vocab_size=vocabulary))
    Run(settings).train()


def _all(options: argparse.Namespace) -> None:
    from reference_model.recipe.export import export
    from reference_model.recipe.prepare import Sources, prepare
    from reference_model.recipe.smoke import smoke

    sources = _sources(options)
    if options.smoke:
        sys.stdout.write(f"{smoke(Sources(sources.corpus), options.out)}\n")
        return
    prepare(sources, options.out / "data")
    _train(options, options.out / "data", options.out / "run")
    export(options.out / "run", options.out / "data", options.out / "checkpoint")
    sys.stdout.write(f"{options.out / 'checkpoint'}\n")


if __name__ == "__main__":
    try:
        run(parser().parse_args())
    except SageEvalError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
