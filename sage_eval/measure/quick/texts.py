"""Texts to ask a server about, in its own tokens: no tokenizer or data is needed here."""

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

from sage_eval.data.folder import tasks_dir
from sage_eval.engine.server import ServerEngine
from sage_eval.errors import EngineError, PrerequisiteError, UsageError


class ServerTokenizer:
    """The server's tokenizer, called as one of `transformers` is."""

    def __init__(self, engine: ServerEngine) -> None:
        self._engine = engine
        self._known: dict[tuple[str, bool], list[int]] = {}

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = False) -> dict[str, list[int]]:
        """`input_ids` of `text`. Raises `PrerequisiteError` where the server has no tokenizer."""
        key = (text, add_special_tokens)
        if key not in self._known:
            asked = {"prompt": text, "add_special_tokens": add_special_tokens}
            try:
                [answer] = self._engine.ask(lambda client: client.json("/tokenize", asked))
                self._known[key] = list(answer["tokens"])
            except (EngineError, KeyError, TypeError) as error:
                raise PrerequisiteError(f"the server does not tokenise ({error}); was it started without?") from error
        return {"input_ids": self._known[key]}


def windows(tokenizer: ServerTokenizer, count: int, tokens: int) -> list[tuple[int, ...]]:
    """`count` pieces of English prose of so many tokens, from its beginning on; all of them differ."""
    ids = tokenizer((tasks_dir() / "prose" / "text.txt").read_text(encoding="utf-8"))["input_ids"]
    size = min(tokens, len(ids) // count)
    return [tuple(ids[place * size : (place + 1) * size]) for place in range(count)]


def needle(length: int, depth: float, sample: int, tokenizer: ServerTokenizer) -> dict[str, Any] | None:
    """A document of the task `sage_retrieval_single`; None where nothing fits into `length`."""
    task = _task()
    parameters, filler = task.Parameters(haystack="builtin"), task.haystack("builtin")
    try:
        document: dict[str, Any] = task.build("single", length, depth, sample, parameters, tokenizer, filler)
    except UsageError:
        return None
    return document


def found(document: dict[str, Any], answer: str) -> bool:
    """Whether the answer has the number that was hidden."""
    score: dict[str, float] = _task().score(document, [answer])
    return bool(score["acc"])


@cache
def _task() -> ModuleType:
    """The retrieval task's own generator, which lm-eval loads by its file as well."""
    spec = importlib.util.spec_from_file_location("sage_eval_retrieval", tasks_dir() / "retrieval" / "retrieval.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
