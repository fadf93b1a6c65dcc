"""A tokenizer for random weights, so that they can be asked the questions of a task."""

from pathlib import Path

from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.probes.scoring.columns import vocabulary

FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def present(model: Path) -> bool:
    """Whether the model folder has a tokenizer."""
    return any((model / name).is_file() for name in FILES)


def lend(name: str, model: Path) -> None:
    """Put the tokenizer of `name` (a folder or hub id) into the model folder.

    Raises `PrerequisiteError` where there is none, `UsageError` where it has more ids than the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"--tokenizer {name}: {str(error).strip().splitlines()[0]}") from error
    if len(tokenizer) > vocabulary(model):
        raise UsageError(f"--tokenizer {name} has {len(tokenizer):,} ids, the model only {vocabulary(model):,}")
    tokenizer.save_pretrained(model)
