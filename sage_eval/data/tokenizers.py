"""The model's tokenizer, for tasks whose prompts are measured in its tokens."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from sage_eval.errors import PrerequisiteError, UsageError

KEYS = ("tokenizer", "tokenizer_path", "pretrained", "model_path", "model")


def tokenizer_of(metadata: dict[str, Any], task: str) -> Any:
    """The tokenizer that a task's metadata names; lm-eval puts the model's arguments there.

    Raises `UsageError` where no key names one, `PrerequisiteError` where it cannot be loaded or is a slow one, which
    cannot tell which characters a token covers.
    """
    for key in KEYS:
        if isinstance(name := metadata.get(key), str) and name:
            return _load(name, str(metadata.get("revision") or "main"), bool(metadata.get("trust_remote_code", False)))
    raise UsageError(
        f"{task} measures text in the model's tokens and knows no tokenizer: "
        """add --metadata '{"tokenizer": "PATH_OR_NAME"}', or pretrained=… to --model_args"""
    )


@lru_cache(maxsize=4)
def _load(name: str, revision: str, trust_remote_code: bool) -> Any:
    tokenizer = load(name, revision=revision, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise PrerequisiteError(
            f"the tokenizer at {name!r} has no fast version, which tells where tokens lie in a text"
        )
    return tokenizer


def load(name: str | Path, advice: str = "give a model folder or a hub name", **options: Any) -> Any:
    """The tokenizer of a model folder or hub name, by `AutoTokenizer`; `PrerequisiteError` where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, **{key: x for key, x in options.items() if x is not None})
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PrerequisiteError(f"no tokenizer at {str(name)!r} ({reason}); {advice}") from error


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """`text` in tokens, without special ones."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
