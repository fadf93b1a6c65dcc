"""Texts to ask a server about, in its own tokens: no tokenizer or data is needed here."""

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

from sage_eval.data.folder import tasks_dir
from sage_eval.engine.server import ServerEngine
from sage_eval.errors import EngineError, PrerequisiteError, UsageError


class ServerTokenizer:
    """The server's tokenizer, called as one of `transformers` is.

    `/tokenize` of SGLang 0.5.17 answers 500 for a tokenizer without a `model_max_length`: transformers then has 1e30,
    for which its JSON has no room. The files at `path`, which the server names, are read instead, where they lie here.
    """

    def __init__(self, engine: ServerEngine, path: str) -> None:
        self._engine, self._path = engine, path
        self._local: Any = None
        self._known: dict[tuple[str, bool], list[int]] = {}

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = False) -> dict[str, list[int]]:
        """`input_ids` of `text`. Raises `PrerequisiteError` where the server has no tokenizer."""
        key = (text, add_special_tokens)
        if key not in self._known:
            self._known[key] = self._ids(text, add_special_tokens)
        return {"input_ids": self._known[key]}

    def _ids(self, text: str, special: bool) -> list[int]:
        if self._local is None:
            try:
                asked = {"prompt": text, "add_special_tokens": special}
                [answer] = self._engine.ask(lambda client: client.json("/tokenize", asked))
                return list(answer["tokens"])
            except (EngineError, KeyError, TypeError) as error:
                self._local = _local(self._path)
                if self._local is None:
                    raise PrerequisiteError(
                        f"the server does not tokenise ({error}), and its tokenizer {self._path} is not on this host"
                    ) from error
        return list(self._local(text, add_special_tokens=special, verbose=False)["input_ids"])


def _local(path: str) -> Any:
    """The tokenizer at `path`; None where it cannot be had without a network."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return None


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
